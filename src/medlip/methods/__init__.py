"""The methods: one file each, all with the same four verbs."""

from medlip.methods.base import Method, build_method, load_method, method_names, register, save_method

__all__ = ["Method", "build_method", "load_method", "method_names", "register", "save_method"]
