"""One thin file per subcommand: options, one library call, a table or JSON.

Library modules are imported inside the command functions, so that ``ganc --help`` loads no torch.
"""
