"""The way in: ``ctp-runbook`` and ``python -m ctp_runbook``.

An alive command's exit code 1 means "gone", which is also what an interpreter ends with when an
import fails. So nothing may fail before it is caught here: what fails, touched nothing, and ends
with 2.
"""

__all__ = ["main"]


def main() -> None:
    """Run the command line; exit code 2 when it cannot even be loaded."""
    import gc

    # What is loaded stays: collected at every 700 objects, as is the default, a start looks for
    # garbage forty times and finds none.
    gc.set_threshold(20_000, 10, 10)
    try:
        from ctp_runbook._late import import_pathlib

        import_pathlib()
        from ctp_runbook.cli.main import main as command_line
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001  a broken installation, told in a sentence
        raise SystemExit(_tell(error)) from None
    try:
        command_line()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as end:
        _end_at_once(end.code)
        raise
    finally:
        # What is left goes with the process: searched for garbage once more, it would take a sixth
        # of a dry run's time.
        gc.freeze()


def _end_at_once(code: object) -> None:
    """End without taking a thousand functions apart, where nobody else has anything to do at the end.

    A thread, or what asked to be called at exit, is left to the interpreter, and so is a stream that
    cannot be flushed.
    """
    import atexit
    import os
    import sys

    if type(code) is not int or "threading" in sys.modules or atexit._ncallbacks():
        return
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)


def _tell(error: Exception) -> int:
    import contextlib
    import sys

    with contextlib.suppress(OSError):
        print(f"ctp-runbook cannot be loaded: {error}; install it again", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
