"""A queue that answers over HTTP in this process, with a real table, and that nobody keeps."""

import socket
import threading
from contextlib import contextmanager

import uvicorn

from cluster.queue.service import Service, application
from cluster.queue.store import Store


@contextmanager
def answering(home):
    """Its address and its table, while the block runs."""
    store = Store(f"sqlite:///{home.folder / 'queue.db'}")
    listens = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application(Service(home, store)), log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listens]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listens.getsockname()[1]}", store
    finally:
        server.should_exit = True
        thread.join()
        listens.close()
        store.close()
