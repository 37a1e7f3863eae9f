"""The runs that the headline rests on: a search, then other worlds with the settings it chose."""
