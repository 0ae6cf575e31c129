"""The site profile: mirrors, proxies, CA and wheel folders, found from the host's own settings.

It is given to an engine while it builds, as one secret file, and nowhere else: no layer, label,
history line or log holds any of it.
"""

from builder.site import apt
from builder.site.profile import SiteProfile, discover
from builder.site.registries import Mirror
from builder.site.wheels import Fit, pin_set

__all__ = ["Fit", "Mirror", "SiteProfile", "apt", "discover", "pin_set"]
