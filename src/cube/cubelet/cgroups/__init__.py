"""Control groups: limits, pause and certain death for the processes of a sandbox, on every kind of host.

Linux has two interfaces and three ways to mount them: the old hierarchies alone (v1), the old ones with the controllers
beside a new one without (hybrid), and the new one alone (v2). :mod:`.detect` finds out which, :mod:`.group` hides it.
"""

from cube.cubelet.cgroups.detect import CgroupHost, detect
from cube.cubelet.cgroups.group import Cgroup, CgroupUsage
from cube.cubelet.cgroups.manager import CgroupManager

__all__ = ["Cgroup", "CgroupHost", "CgroupManager", "CgroupUsage", "detect"]
