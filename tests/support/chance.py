"""What chance there is in tests: none in `make test`, which is the same each time; new in each
`make explore`, which says its seed when it fails.  RAMET_SEED=N repeats one."""

import os
import random

_WANTED = os.environ.get("RAMET_SEED", "1")
EXPLORE = _WANTED == "new"
SEED = random.randrange(1 << 30) if EXPLORE else int(_WANTED)
