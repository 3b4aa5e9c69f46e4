"""What a command does before it imports torch, which takes seconds: so this imports little."""

import os
import signal
import threading
import time

PAUSE = 2  # seconds between two looks at the parent
GRACE = 20  # seconds to save in, once asked to stop


def prepare() -> None:
    """Let Ctrl-C end this process without a traceback until `run_command`; end with torchrun."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as by nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()


def end_with(parent: int) -> None:
    """End this process when its parent has ended, by whatever cause: kill -9 leaves torchrun's.

    It is asked first, so that it saves; if it waits for others that have ended, it does not hear.
    """
    while os.getppid() == parent:
        time.sleep(PAUSE)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
