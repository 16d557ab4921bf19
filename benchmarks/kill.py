"""kill -9 of a run at each stage, again and again, while a reader polls: is half a release ever seen, and does the next run go on?

python -m benchmarks.kill [penguins] [times]
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from data.errors import BadInput
from data.releases import releases
from flows.screen import table

STAGES = ("prepare", "fit", "draw", "judge", "publish")
CODE = """
import os
from flows.job import Job
from flows.publishing import synthesize
out = synthesize(Job(source={{"spec": {source!r}}}, seed={seed}, to={to!r},
    generator={{"name": "tabular/made", "training": {{"steps": 400}}}}))
print(out.folder)
"""


def stage_under_way(home: Path, to: Path) -> str | None:
    """The stage that is at work, by the folders that are there; `prepare` is over so soon that its moment counts from the lock on."""
    if any((to / "_staging").glob("*/data")):
        return "publish"
    if found := next((p.name.split("-")[0] for p in (home / "runs").glob("*/*.partial")), None):
        return found
    begun, past = any((home / "runs").glob("*/lock")), any((home / "runs").glob("*/fit-*"))
    return "prepare" if begun and not past else None


def main() -> None:
    source, times = sys.argv[1] if len(sys.argv) > 1 else "penguins", int(sys.argv[2]) if len(sys.argv) > 2 else 5
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(times):
            for stage in STAGES:
                home, to = Path(folder) / f"home-{seed}-{stage}", Path(folder) / f"to-{seed}-{stage}"
                env = {**os.environ, "ALFAR_HOME": str(home), "OMP_NUM_THREADS": "1"}
                start = [sys.executable, "-c", CODE.format(source=source, seed=seed, to=str(to))]
                bad: list[str] = []
                over = threading.Event()

                def poll(to: Path = to, bad: list[str] = bad, over: threading.Event = over) -> None:
                    while not over.is_set():
                        for found in releases(to):
                            try:
                                found.verify()
                                json.loads((found.folder / "release.json").read_text())
                            except (BadInput, OSError, ValueError) as error:
                                bad.append(str(error))
                        time.sleep(0.005)

                reader = threading.Thread(target=poll)
                reader.start()
                child = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                seen = None
                while child.poll() is None and (seen := stage_under_way(home, to)) != stage:
                    time.sleep(0.002)
                time.sleep(random.Random(seed).random() * 0.2)
                child.send_signal(signal.SIGKILL)
                child.wait()
                half = len(releases(to))
                again = subprocess.run(start, env=env, capture_output=True, text=True)
                over.set()
                reader.join()
                lines.append([stage, seed, seen or "ended", half, len(bad), again.returncode, len(releases(to))])
                print(lines[-1], flush=True)
    print(
        table(
            [[str(cell) for cell in line] for line in lines],
            ["kill in", "round", "was in", "releases then", "half seen", "exit", "releases"],
        )
    )


if __name__ == "__main__":
    main()
