"""The adapters to AWS and CircleCI: each implements the protocols of `playbook.ports` over one SDK.

Importing this package costs nothing; boto3 and httpx load with the module that needs them.
"""

from __future__ import annotations

import logging

SDK_LOGGERS = ("botocore", "boto3", "urllib3", "s3transfer", "httpx", "httpcore")


def quiet_sdk_loggers() -> None:
    """Keep the SDKs' own records from every handler, whatever level the root logger has.

    At DEBUG botocore logs the reply of `CreateAccessKey`, secret included, and at INFO httpx logs whole addresses
    (AWS facts 1.4). The level alone is not enough: a child logger with a level of its own would still propagate.
    """
    for name in SDK_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
