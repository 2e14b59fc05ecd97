"""A kubelet: tells the engine which pods it runs and how their containers are, and hears what their probes say."""

import http.server
import json
import queue
import sys
import threading
import time

from api import PATIENCE, Api, arguments, say

UID = "6d1a3c1e-0000-4000-8000-000000000001"


class Target:
    """What the pod's network answers: 200 while it is healthy."""

    def __init__(self):
        self.is_healthy = True
        self.answered = threading.Semaphore(0)
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if target.is_healthy else 500)
                self.end_headers()
                target.answered.release()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_answered(self, count):
        """For so many requests from now on."""
        while self.answered.acquire(blocking=False):
            pass
        for _ in range(count):
            assert self.answered.acquire(timeout=PATIENCE), "nobody asks"


class Commands:
    """Runs the commands of exec probes: here they all end as `exit_code` says."""

    def __init__(self, api):
        self.messages = api.messages
        self.exit_code = 0
        self.calls = queue.Queue()
        self.requests = queue.Queue()
        self.requests.put(self.messages.ServeExecRequest())
        self.stream = api.embedder.ServeExec(iter(self.requests.get, None))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        try:
            for message in self.stream:
                if message.WhichOneof("item") == "call":
                    self.answer(message.call)
        except Exception:
            # The daemon has ended, or we have.
            pass

    def answer(self, call):
        result = self.messages.ExecResult(id=call.id, exit_code=self.exit_code, output=b"the tool speaks")
        self.requests.put(self.messages.ServeExecRequest(result=result))
        self.calls.put(call)


class Results:
    """WatchResults in the background: the newest of each probe, and all that came."""

    def __init__(self, api):
        self.messages = api.messages
        self.arrived = queue.Queue()
        self.said = []
        self.newest = {}
        self.stream = api.embedder.WatchResults(self.messages.WatchResultsRequest())
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for message in self.stream:
                self.arrived.put(message)
        except Exception:
            self.arrived.put(None)

    def next(self):
        """The kind of the next message; a result is kept."""
        message = self.arrived.get(timeout=PATIENCE)
        assert message is not None, "the stream ended"
        if message.HasField("result"):
            said = message.result
            assert said.probe.pod_uid == UID, said
            self.said.append(said)
            if said.probe.container:
                self.newest[said.probe.container, said.probe.type] = said
            else:
                # All of the pod's are gone.
                self.newest = dict.fromkeys(self.newest, said)
        return message.WhichOneof("item")

    def until_synced(self):
        while self.next() != "synced":
            pass

    def until(self, container, probe_type, result, container_id):
        """Reads until this is the newest of the probe. Results of several probes come in any order."""
        while True:
            newest = self.newest.get((container, probe_type))
            if newest and (newest.result, newest.container_id) == (result, container_id):
                return newest
            self.next()


def manifest(port):
    http_get = {"httpGet": {"path": "/", "port": port}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": UID},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "app",
                    "readinessProbe": {**http_get, "failureThreshold": 1},
                    "livenessProbe": {**http_get, "failureThreshold": 2},
                },
                {
                    "name": "tool",
                    "image": "tool",
                    "livenessProbe": {
                        "exec": {"command": ["check", "--all"]},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                },
            ]
        },
    }


class Kubelet:
    def __init__(self, api, target):
        self.api, self.messages, self.target = api, api.messages, target
        # By container: instance, and when it was started.
        self.running = {}

    def sync(self, *manifests):
        desired = [self.messages.DesiredPod(manifest=json.dumps(pod)) for pod in manifests]
        parts = [self.messages.SyncPodsRequest(pods=[pod]) for pod in desired] or [self.messages.SyncPodsRequest()]
        return self.api.embedder.SyncPods(iter(parts), timeout=PATIENCE)

    def start(self, container, instance):
        self.running[container] = (f"external://{instance}", time.time())

    def tell(self, terminated=None):
        """All of the pod's containers; one of them may have ended, to be started again."""
        containers = []
        for name, (container_id, started_at) in self.running.items():
            state = self.messages.ContainerState()
            if name == terminated:
                state.terminated.exit_code = 137
                state.terminated.reason = "Error"
                state.terminated.started_at.FromNanoseconds(int(started_at * 1e9))
                state.terminated.finished_at.GetCurrentTime()
            else:
                state.running.started_at.FromNanoseconds(int(started_at * 1e9))
            containers.append(
                self.messages.EmbeddedContainer(name=name, id=container_id, state=state, restart_allowed=True)
            )
        status = self.messages.UpdatePodStatusRequest(pod_uid=UID, pod_ip="127.0.0.1", containers=containers)
        self.api.embedder.UpdatePodStatus(status, timeout=PATIENCE)


def main():
    args = arguments(__doc__).parse_args()
    api = Api(args)
    messages = api.messages
    liveness, readiness = messages.PROBE_TYPE_LIVENESS, messages.PROBE_TYPE_READINESS
    success, failure = messages.VERDICT_SUCCESS, messages.VERDICT_FAILURE
    unspecified = messages.VERDICT_UNSPECIFIED

    info = api.control.GetInfo(messages.GetInfoRequest(), timeout=PATIENCE)
    assert info.runtime == "external", info
    say("connected to an engine without a runtime")

    target = Target()
    kubelet = Kubelet(api, target)
    pod = manifest(target.port)
    answer = kubelet.sync(pod, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "no-spec"}})
    assert (answer.added_count, answer.removed_count, len(answer.problems)) == (1, 0, 1), answer
    assert answer.problems[0].index == 1 and "no-spec" in answer.problems[0].pod, answer
    say("one pod is taken, one is refused by its problems")

    results = Results(api)
    results.until_synced()
    assert results.said == [], "no container was started yet"
    commands = Commands(api)
    kubelet.start("app", "app-1")
    kubelet.start("tool", "tool-1")
    kubelet.tell()
    results.until("app", readiness, success, "external://app-1")
    say("the app is ready by its probe")

    call = commands.calls.get(timeout=PATIENCE)
    assert (call.pod_uid, call.container, call.container_id) == (UID, "tool", "external://tool-1"), call
    assert list(call.command) == ["check", "--all"] and call.timeout_ms <= 1000, call
    say("a command was asked for, and answered")
    commands.exit_code = 1
    said = results.until("tool", liveness, failure, "external://tool-1")
    assert "the tool speaks" in said.reason, said
    say("its exit code 1 is a Failure of its container")

    target.is_healthy = False
    said = results.until("app", liveness, failure, "external://app-1")
    assert said.run == 2 and "500" in said.reason, said
    say("the broken app is a Failure of its container")

    # What a kubelet does then: kill, and start anew.
    kubelet.tell(terminated="app")
    target.is_healthy = True
    commands.exit_code = 0
    kubelet.start("app", "app-2")
    kubelet.start("tool", "tool-2")
    kubelet.tell()
    results.until("app", liveness, success, "external://app-2")
    say("the new instance begins with its initial value")
    results.until("app", readiness, success, "external://app-2")
    say("and is ready by its probe")

    say("kill the daemon and start it again")
    sys.stdin.readline()
    api.open()
    # The watch comes first, so that nothing that is said in between can be missed.
    results = Results(api)
    results.until_synced()
    commands = Commands(api)
    answer = kubelet.sync(pod)
    assert len(answer.problems) == 0, answer
    kubelet.tell()
    results.until("app", readiness, success, "external://app-2")
    assert all(said.result != failure for said in results.said), results.said
    say("one SyncPods and the status bring back what was known")
    commands.calls.get(timeout=PATIENCE)
    say("commands are asked for again")

    stop = messages.StopLivenessAndStartupRequest(pod_uid=UID)
    api.embedder.StopLivenessAndStartup(stop, timeout=PATIENCE)
    results.until("tool", liveness, unspecified, "")
    while not commands.calls.empty():
        commands.calls.get()
    target.wait_answered(3)
    assert commands.calls.empty(), "a liveness probe that was ended asks on"
    say("liveness has ended, readiness goes on")

    answer = kubelet.sync()
    assert answer.removed_count == 1, answer
    results.until("app", readiness, unspecified, "")
    say("the pod is gone with the next SyncPods")


if __name__ == "__main__":
    main()
