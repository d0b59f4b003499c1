"""Trained models behind HTTP: the API, and the viewer's files.

What an upload passes, in order: `guard` (token, origin, headers, log), `uploads` (size, time, form), `decoding` (a process
of its own), `batching` (the model looks once at all who wait), `answers` (the document). `application` ties them together.
"""
