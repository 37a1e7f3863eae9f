"""The page: one picture, one question, two models side by side. `hadpo page` opens it.

It is for one machine: it listens on 127.0.0.1 only, asks nobody outside for anything, but for a
judge that is named, and keeps nothing that a visitor brings. Read `app` for what is on it, `shelf`
for its pictures and judge, `uploads` for what it refuses.
"""

from hadpo.page.serve import serve

__all__ = ["serve"]
