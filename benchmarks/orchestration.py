"""What orchestration costs: the same job as plain function calls, as a flow, and as a flow again when everything is cached.

    python -m benchmarks.orchestration [penguins]

Each in a process and a private folder of its own; the flow's server database is migrated before the clock starts.
"""

import os
import subprocess
import sys
import tempfile
import time

PLAIN = "from flows.job import Job; from flows.publishing import synthesize; synthesize(Job(source={'spec': %r}, minutes=1.0, to=%r))"
FLOW = (
    "from flows import settings; settings.prepare(); from flows.job import Job; from flows.synthesize import synthesize; "
    "synthesize(Job(source={'spec': %r}, minutes=1.0, to=%r))"
)


def seconds(code: str, home: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "ALFAR_HOME": home}, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    source = sys.argv[1] if len(sys.argv) > 1 else "penguins"
    with tempfile.TemporaryDirectory() as folder:
        print(f"first flow ever, database made:  {seconds(FLOW % (source, f'{folder}/r0'), f'{folder}/flow'):6.1f} s")
        subprocess.run(["rm", "-rf", f"{folder}/flow/runs"], check=True)
        print(f"plain function calls:            {seconds(PLAIN % (source, f'{folder}/r1'), f'{folder}/plain'):6.1f} s")
        print(f"the same as a flow:              {seconds(FLOW % (source, f'{folder}/r2'), f'{folder}/flow'):6.1f} s")
        print(f"the flow again, all cached:      {seconds(FLOW % (source, f'{folder}/r2'), f'{folder}/flow'):6.1f} s")
        print(f"plain calls again, all cached:   {seconds(PLAIN % (source, f'{folder}/r1'), f'{folder}/plain'):6.1f} s")


if __name__ == "__main__":
    main()
