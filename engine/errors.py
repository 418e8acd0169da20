"""The one exception that means: the user can fix this, and the message says how."""


class InputError(ValueError):
    """Wrong input from outside: an option, a file, a data set, a device.

    The message is one line that names the option or file, what was found, what was expected and what to do.
    Scripts print it without a traceback and exit with status 2 (see `command_line.run_script`).
    """
