"""Programs that run *inside* sandboxes, on the Python of the user's image.

The service never imports them: :mod:`cube.envd.interpreter.payload` reads their source and sends it to the sandbox,
where it becomes the package ``cube_kernel``. So a module here imports only the standard library, its neighbours (by
relative import) and, where it says so, packages of the image; and its syntax must suit Python 3.9.

The protocol, one JSON object per line. From the service: ``{"op": "execute", "id", "code", "env"}``,
``{"op": "interrupt", "id"}``, ``{"op": "environment", "variables"}`` for all cells to come; end of file asks the kernel
to exit. To the service, as key ``type``:

- ``ready`` once, or ``fatal`` with a ``message`` and the end;
- per execution ``started`` (``id``, ``count``), then any number of ``stdout`` and ``stderr`` (``text``), ``result``
  (``data``: values by MIME type, ``main``: whether it is the value of the cell), at most one ``error`` (``name``,
  ``value``, ``traceback``), and last ``done`` (``id``).
"""
