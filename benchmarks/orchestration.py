"""What orchestration and gates cost: the same job as plain function calls and as a flow, and what of it is publishing.

    python -m benchmarks.orchestration [penguins]

Each in a process and a private folder of its own. `warm` is a Prefect server that is there already; a flow that names none starts its
own, whose database is migrated before the clock starts. Wall and CPU seconds; those of the warm server are not in the CPU seconds.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

from flows.server import server

PLAIN = "from flows.job import Job; from flows.pipeline import synthesize; synthesize(Job.of({'source': %r, 'minutes': 1.0, 'to': %r%s}))"
FLOW = (
    "from flows import settings; settings.prepare(); from flows.job import Job; from flows.synthesize import synthesize; "
    "synthesize(Job.of({'source': %r, 'minutes': 1.0, 'to': %r%s}))"
)
OTHER = ", 'gates': {'copies': 0.5}"  # nothing but publishing is done again


def measured(what: str, code: str, home: str) -> None:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "ALFAR_HOME": home}, capture_output=True)
    wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{what:40} {wall:6.1f} s wall {used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime:6.1f} s CPU", flush=True)


def main() -> None:
    source = sys.argv[1] if len(sys.argv) > 1 else "penguins"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ALFAR_HOME"] = f"{folder}/warm"
        measured("plain function calls", PLAIN % (source, f"{folder}/r1", ""), f"{folder}/plain")
        measured("plain again, other gates: publishing", PLAIN % (source, f"{folder}/r1", OTHER), f"{folder}/plain")
        measured("plain again, all cached", PLAIN % (source, f"{folder}/r1", ""), f"{folder}/plain")
        with server():
            measured("a flow, warm server", FLOW % (source, f"{folder}/r2", ""), f"{folder}/flow")
            measured("the flow again, warm, all cached", FLOW % (source, f"{folder}/r2", ""), f"{folder}/flow")
        measured("the flow again, server of its own made", FLOW % (source, f"{folder}/r2", ""), f"{folder}/flow")
        measured("the flow again, server of its own", FLOW % (source, f"{folder}/r2", ""), f"{folder}/flow")


if __name__ == "__main__":
    main()
