"""Whether what a sentence of the mini world says is so."""

from hadpo.mini.captions import Claim, SettingClaim, claim_at
from hadpo.mini.world import Scene


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether a claim holds in a scene."""
    if isinstance(claim, SettingClaim):
        return claim.setting == scene.setting
    return claim == claim_at(scene, claim.place)
