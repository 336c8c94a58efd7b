import assert from "node:assert/strict";
import type { StoredRecord } from "@ultracloud/platform";
import type { Port } from "./domain/types.ts";
import { HostPorts } from "./host_ports.ts";

function port(id: string, host: string, mtu = 1400): StoredRecord<Port> {
  const value = { host, binding: host === "" ? undefined : { engine: "tap", device: `ut${id}`, mtu } };
  return { id, value } as unknown as StoredRecord<Port>;
}
const ids = (ports: readonly { portId: string }[]) => ports.map(({ portId }) => portId).sort();

Deno.test("HostPorts tells a host what has changed since it was asked, and all of it the first time", () => {
  const hosts = new HostPorts();
  hosts.change(undefined, port("a", ""), 1);
  hosts.change(port("a", ""), port("a", "h1"), 2);
  hosts.change(undefined, port("b", "h1"), 3);
  hosts.change(undefined, port("c", "h2"), 4);
  assert.deepEqual(ids(hosts.since("h1", undefined).ports), ["a", "b"]);
  assert.equal(hosts.since("h1", undefined).partial, false);
  assert.deepEqual(hosts.since("h1", 2), {
    partial: true,
    ports: [{ portId: "b", device: "utb", mtu: 1400, guardMac: "" }],
    removed: [],
  });
  assert.equal(hosts.hasChanged("h1", 3), false);
  hosts.change(port("a", "h1"), undefined, 5);
  hosts.change(port("b", "h1"), port("b", "h2"), 6);
  assert.deepEqual(hosts.since("h1", 4), { partial: true, ports: [], removed: ["a", "b"] });
  assert.deepEqual(ids(hosts.since("h2", 4).ports), ["b"]);
  // A port that went and came back is not told as gone.
  hosts.change(port("b", "h2"), port("b", "h1", 1300), 7);
  assert.deepEqual(hosts.since("h1", 4), {
    partial: true,
    ports: [{ portId: "b", device: "utb", mtu: 1300, guardMac: "" }],
    removed: ["a"],
  });
});

Deno.test("HostPorts tells both hosts of a port whose guest moves, and the one that lets go of it", () => {
  const hosts = new HostPorts();
  const both = (host: string, arrivingHost: string) => {
    const record = port("a", host);
    return { ...record, value: { ...record.value, arrivingHost } } as typeof record;
  };
  hosts.change(undefined, port("a", "h1"), 1);
  hosts.change(port("a", "h1"), both("h1", "h2"), 2);
  assert.equal(hosts.hasChanged("h1", 1), false, "nothing changes where it was");
  assert.deepEqual(ids(hosts.since("h2", 1).ports), ["a"]);
  hosts.change(both("h1", "h2"), port("a", "h2"), 3);
  assert.deepEqual(hosts.since("h1", 2), { partial: true, ports: [], removed: ["a"] });
  assert.equal(hosts.hasChanged("h2", 2), false, "nothing changes where it arrived");
  assert.deepEqual(ids(hosts.since("h2", undefined).ports), ["a"]);
  hosts.change(both("h2", "h1"), port("a", "h2"), 5);
  assert.deepEqual(hosts.since("h1", 4).removed, ["a"], "it did not move");
});

Deno.test("HostPorts takes a rewritten record whose binding stays for no change", () => {
  const hosts = new HostPorts();
  hosts.change(undefined, port("a", "h1"), 1);
  hosts.change(port("a", "h1"), port("a", "h1"), 2);
  assert.equal(hosts.hasChanged("h1", 1), false);
});

Deno.test("HostPorts answers everything when it has forgotten who left", () => {
  const hosts = new HostPorts();
  let version = 1;
  for (let i = 0; i < 10_001; i++) {
    hosts.change(undefined, port(`p${i}`, "h1"), version++);
    hosts.change(port(`p${i}`, "h1"), undefined, version++);
  }
  assert.equal(hosts.since("h1", 1).partial, false);
  assert.equal(hosts.since("h1", version).partial, true);
});
