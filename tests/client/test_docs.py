"""The examples of docs/client.md, run one after the other against one broker."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "client.md"


def test_the_examples_run(server):
    """Each is a program that ends well, on the topic that the first one makes."""
    examples = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    program = "\n".join(examples).replace("127.0.0.1:9092", server)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
