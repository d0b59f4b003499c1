"""The error that MedLIP raises for anything a user can put right."""


class MedLIPError(Exception):
    """Bad input or a bad setting.

    The message says what is wrong, where, and what to do about it; the command line prints it as its last line, without a
    traceback.
    """
