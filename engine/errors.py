"""The one exception that means: the user can fix this, and the message says how; and a missing package as one."""
import importlib


class InputError(ValueError):
    """Wrong input from outside: an option, a file, a data set, a device.

    The message is one line that names the option or file, what was found, what was expected and what to do.
    Scripts print it without a traceback and exit with status 2 (see `command_line.run_script`).
    """


def need_packages(extra: str, names: tuple[str, ...], who: str) -> None:
    """Import the packages of an extra. Raises InputError for one that is not installed. who: what needs it, such as an
    option."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"{who} needs the package {error.name or name}, which is not installed; install the "
                             f"extra: pip install '.[{extra}]'") from error
