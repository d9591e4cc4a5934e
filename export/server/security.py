"""Who may do what: TLS for the gRPC port, socket files, and what an operator should know."""

import os
import stat

import grpc

from export.server.status import ServingError
from export.server.text_protos import SSLConfigProto, read_text_proto

_KEY_MARK, _CERTIFICATE_MARK = "PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"


def read_credentials(path: str) -> grpc.ServerCredentials:
    """Reads the file of `--ssl_config_file`.

    The fields hold PEM text, not paths: `server_key` and `server_cert`, and `custom_ca`, whose
    certificates sign those of clients. With `client_verify` a client without one is refused.

    Raises:
        ServingError: as `read_text_proto`; INVALID_ARGUMENT when the key or the certificate is
            missing or not PEM, or clients are to be verified without a `custom_ca`.

    Example:
        >>> Server(models, credentials=read_credentials("/etc/ssl.config"))
    """
    config = read_text_proto(path, SSLConfigProto)
    for field, mark in (("server_key", _KEY_MARK), ("server_cert", _CERTIFICATE_MARK)):
        if mark not in getattr(config, field):
            raise _invalid(f"{path}: {field} must be PEM text with {mark.strip('-')}, not a path")
    if config.custom_ca and _CERTIFICATE_MARK not in config.custom_ca:
        raise _invalid(f"{path}: custom_ca must be PEM text with a certificate, not a path")
    if config.client_verify and not config.custom_ca:
        # gRPC would take the authorities that browsers trust: any of their customers could ask.
        raise _invalid(
            f"{path}: client_verify needs custom_ca, the authority that signs clients' certificates"
        )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def check_socket_path(path: str) -> None:
    """Makes room for a UNIX domain socket; raises OSError when there is something else.

    A socket that is there is removed, also that of a server that runs, which keeps the connections
    it has: TensorFlow Serving takes it over in the same way.
    """
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(f"cannot listen at {path}: there is something else")
    os.unlink(path)


def risks(*, tls: bool, rest: bool, reloads: bool) -> list[str]:
    """What is told at every start, a sentence each.

    Args:
        tls: bool. Whether gRPC is served with TLS.
        rest: bool. Whether REST is served, too.
        reloads: bool. Whether gRPC takes another configuration.
    """
    told = [
        "a SavedModel is a program: its ops, ReadFile and WriteFile among them, run with the "
        "rights of this server. Serve only models that you trust; python -m export.closure "
        "names such ops"
    ]
    if reloads:
        told.append(
            "whoever reaches the gRPC port may have any folder that this server can read served; "
            "--noallow_reload_over_grpc refuses it"
        )
    if tls and rest:
        told.append(
            "--ssl_config_file is for gRPC alone: the REST API has no TLS and asks for no "
            "certificate. Leave --rest_api_port out, or put a proxy with TLS before it"
        )
    return told


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
