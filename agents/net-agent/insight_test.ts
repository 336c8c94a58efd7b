import assert from "node:assert/strict";
import { NetAgentService } from "@ultracloud/proto/netagent/v1";
import { inProcessClient } from "@ultracloud/testing";
import { countsByCookie, Insight, microflowOf, outputsOf } from "./insight.ts";
import type { NetHost } from "./host.ts";
import type { Programs } from "./programs.ts";
import { netAgentService } from "./service.ts";

const packet = {
  datapath: "snet_1",
  portId: "port_1",
  sourceMac: "52:54:00:00:00:01",
  destinationMac: "52:54:00:00:00:02",
  sourceIp: "10.0.0.2",
  destinationIp: "10.0.0.3",
  protocol: "tcp",
  destinationPort: 80,
};

Deno.test("microflowOf() writes a packet in ovn-trace's language", () => {
  assert.equal(
    microflowOf(packet),
    'inport == "port_1" && eth.src == 52:54:00:00:00:01 && eth.dst == 52:54:00:00:00:02 && ip4.src == 10.0.0.2 && ' +
      "ip4.dst == 10.0.0.3 && ip.ttl == 64 && tcp.src == 40000 && tcp.dst == 80",
  );
  const six = { ...packet, sourceIp: "fd00::2", destinationIp: "fd00::3", protocol: "icmp", destinationPort: 0 };
  assert.match(microflowOf(six), /ip6\.src == fd00::2 .*icmp6\.type == 128 && icmp6\.code == 0$/);
});

Deno.test("microflowOf() lets nothing into the program's argument that is not a name, an address or a number", () => {
  const bad: Partial<typeof packet>[] = [
    { datapath: "--db=tcp:evil" + " ".repeat(3) },
    { datapath: "" },
    { portId: 'x" || 1' },
    { sourceMac: "52:54" },
    { destinationMac: "52:54:00:00:00:02 || 1" },
    { sourceIp: "10.0.0" },
    { destinationIp: "fd00::3" },
    { protocol: "sctp" },
    { destinationPort: 0 },
    { destinationPort: 65_536 },
    { protocol: "icmp" },
  ];
  for (const change of bad) assert.throws(() => microflowOf({ ...packet, ...change }), /Cannot trace/);
});

Deno.test("outputsOf() tells guests and networks outside from routers", () => {
  const text = `output;\n/* output to "lr-1", type "patch" */\n/* output to "port_2", type "" */\n` +
    `/* output to "ln-pool", type "localnet" */\n/* output to "port_2", type "" */`;
  assert.deepEqual(outputsOf(text), ["port_2", "ln-pool"]);
  assert.deepEqual(outputsOf("4. ls_out_acl: drop;"), []);
});

Deno.test("countsByCookie() sums flows of one cookie and pads it", () => {
  const dump = " cookie=0xa1, duration=1.2s, table=8, n_packets=3, n_bytes=30, idle_age=1, ip actions=drop\n" +
    " cookie=0x000000a1, duration=1.2s, table=9, n_packets=4, n_bytes=40, ip actions=drop\n" +
    " cookie=0xdeadbeef, duration=1.2s, table=9, n_packets=0, n_bytes=0, ip actions=drop\n";
  assert.deepEqual([...countsByCookie(dump)], [["000000a1", { packets: 7, bytes: 70 }]]);
});

Deno.test("net-agent counts the ports asked for, and matches flows to rows of the northbound database", async () => {
  const counters = { rx_packets: 1, rx_bytes: 10, tx_packets: 2, tx_bytes: 20, rx_dropped: 3, tx_dropped: 4 };
  const host = {
    observed: () => ["port_1", "port_2"].map((logicalPort) => ({ logicalPort, counters })),
    managementSocket: "/run/x.mgmt",
  } as unknown as NetHost;
  const flow = (uuid: string, hint: string) => ({
    _uuid: ["uuid", uuid],
    external_ids: ["map", [["stage-hint", hint]]],
  });
  const answers: Record<string, string> = {
    "ovs-ofctl":
      " cookie=0xb1b1b1b1, table=8, n_packets=3, n_bytes=30, ip\n cookie=0xb2b2b2b2, table=8, n_packets=1, n_bytes=9,",
    "ovsdb-client": JSON.stringify([
      {
        rows: [flow("b1b1b1b1-0000-0000-0000-000000000000", "a1"), flow("b3b3b3b3-0000-0000-0000-000000000000", "a1")],
      },
      { rows: [flow("b2b2b2b2-0000-0000-0000-000000000000", "a1")] },
    ]),
  };
  const programs = { run: (program: string) => Promise.resolve(answers[program]!) } as unknown as Programs;
  const client = inProcessClient(NetAgentService, [netAgentService(new Insight(host, ["unix:/sb"], programs))]);
  const answer = await client.getCounters({ portIds: ["port_2"], acls: true });
  assert.deepEqual(answer.ports.map((p) => [p.portId, p.sentPackets, p.receivedBytes, p.droppedPackets]), [
    ["port_2", 1n, 20n, 7n],
  ]);
  assert.deepEqual(answer.acls.map(({ acl, packets, bytes }) => [acl, packets, bytes]), [["000000a1", 4n, 39n]]);
  assert.deepEqual((await client.getCounters({})).acls, []);
});
