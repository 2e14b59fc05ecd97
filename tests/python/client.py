"""An operator: adds a pod, watches it become Ready, breaks it, sees why it is killed, and removes it."""

import json
import socket
import urllib.request

import grpc

from api import PATIENCE, Api, arguments, refused, say


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def manifest(server, port):
    probe = {"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1}
    container = {
        "name": "web",
        "command": [server, "serve", "http", "--listen", f"127.0.0.1:{port}"],
        "readinessProbe": {**probe, "failureThreshold": 1},
        "livenessProbe": {**probe, "failureThreshold": 2},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "python", "namespace": "default", "labels": {"app": "python"}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]},
    }


def is_ready(pod, messages):
    return any(c.type == "Ready" and c.status == messages.CONDITION_STATUS_TRUE for c in pod.conditions)


class Watch:
    """WatchPods of our pod; knows where to go on."""

    def __init__(self, api, since=None):
        self.messages = api.messages
        pods = self.messages.PodFilter(namespace="default", label_selector="app=python")
        request = self.messages.WatchPodsRequest(filter=pods, since=since)
        self.stream = api.control.WatchPods(request, timeout=PATIENCE)
        self.place = since

    def __next__(self):
        message = next(self.stream)
        if message.HasField("place"):
            self.place = message.place
        return message

    def until_synced(self):
        """What came before SYNCED."""
        kinds = []
        while True:
            message = next(self)
            kind = message.WhichOneof("item")
            if kind == "synced":
                return kinds
            kinds.append(kind)

    def until(self, is_it):
        """The first state of the pod for which this holds."""
        while True:
            message = next(self)
            if message.WhichOneof("item") == "pod" and is_it(message.pod):
                return message.pod

    def until_gone(self):
        while next(self).WhichOneof("item") != "gone":
            pass


def main():
    parser = arguments(__doc__)
    parser.add_argument("--server", required=True, help="a probe-engine binary, whose `serve` is the pod's program")
    args = parser.parse_args()
    api = Api(args)
    messages, control = api.messages, api.control

    info = control.GetInfo(messages.GetInfoRequest(), timeout=PATIENCE)
    assert info.runtime == "process", info
    say(f"connected to {info.api_address or 'the socket'}")

    watch = Watch(api)
    assert watch.until_synced() == ["restart"], "there is no such pod yet"
    say("an empty snapshot, and SYNCED")

    port = free_port()
    pod = manifest(args.server, port)
    broken = json.loads(json.dumps(pod))
    broken["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = -1
    add = lambda pod: control.AddPod(messages.AddPodRequest(manifest=json.dumps(pod)), timeout=PATIENCE)
    refused(lambda: add(broken), grpc.StatusCode.INVALID_ARGUMENT, "spec.containers[0].livenessProbe.periodSeconds")
    say("a bad manifest is refused by its field")
    added = add(pod).pod
    assert (added.name, added.source) == ("python", "api"), added
    refused(lambda: add(pod), grpc.StatusCode.ALREADY_EXISTS)
    say("the pod is added, once")

    ready = watch.until(lambda pod: is_ready(pod, messages))
    first_id = ready.containers[0].id
    say("the pod is Ready")

    newest = control.WatchEvents(messages.WatchEventsRequest(pod="python"), timeout=PATIENCE)
    since = max(message.event.sequence for message in newest)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/control?healthy=false", data=b"", timeout=PATIENCE).close()
    watch.until(lambda pod: not is_ready(pod, messages))
    say("broken, it is not Ready")

    request = messages.WatchEventsRequest(pod="python", since=since, follow=True)
    events = control.WatchEvents(request, timeout=PATIENCE)
    seen = []
    while "Killing" not in [event.reason for event in seen]:
        message = next(events)
        if message.WhichOneof("item") == "event":
            seen.append(message.event)
    events.cancel()
    unhealthy = [event for event in seen if event.reason == "Unhealthy"]
    assert any(event.probe_type == messages.PROBE_TYPE_LIVENESS and event.run == 2 for event in unhealthy), seen
    assert any("503" in event.message for event in unhealthy), seen
    say("events tell Unhealthy and Killing")

    again = watch.until(lambda pod: is_ready(pod, messages) and pod.containers[0].id != first_id)
    assert again.containers[0].restart_count == 1, again
    say("a new instance of the container is Ready")

    # What came with that moment and was not read yet is sent anew: a pod at most, but no restart.
    watch.stream.cancel()
    watch = Watch(api, since=watch.place)
    assert "restart" not in watch.until_synced()
    say("the watch goes on where another ended")

    remove = messages.RemovePodRequest(pod="python", grace_period_seconds=1)
    control.RemovePod(remove, timeout=PATIENCE)
    watch.until_gone()
    get = lambda: control.GetPod(messages.GetPodRequest(name="python"), timeout=PATIENCE)
    refused(get, grpc.StatusCode.NOT_FOUND)
    say("the pod is removed, and gone")


if __name__ == "__main__":
    main()
