import { isIP } from "node:net";
import { invalidField } from "@ultracloud/base";
import { atomsOf, entriesOf, map, type Operation, type Row, uuidOf } from "@ultracloud/ovsdb";
import type { NetHost } from "./host.ts";
import type { Programs } from "./programs.ts";

/** A packet may pass connection tracking this often on its way; each time it is the first of its connection. */
const trackedMax = 16;
/** Longest trace that is answered: a way over every router of a VPC has some hundred lines. */
const traceCharsMax = 200_000;
/** Digits of a UUID that OVN keeps with a flow. */
const hintDigits = 8;

export interface AclCount extends Count {
  /** First digits of the ACL's UUID in the northbound database. */
  readonly acl: string;
}

export interface PacketSpec {
  readonly datapath: string;
  readonly portId: string;
  readonly sourceMac: string;
  readonly destinationMac: string;
  readonly sourceIp: string;
  readonly destinationIp: string;
  readonly protocol: string;
  readonly destinationPort: number;
}

export interface PacketTrace {
  readonly outputs: readonly string[];
  readonly text: string;
}

interface Count {
  readonly packets: number;
  readonly bytes: number;
}

function add(sums: Map<string, Count>, key: string, { packets, bytes }: Count): void {
  const sum = sums.get(key) ?? { packets: 0, bytes: 0 };
  sums.set(key, { packets: sum.packets + packets, bytes: sum.bytes + bytes });
}

/** Counts by flow cookie, the first digits of the logical flow that each was made of. */
export function countsByCookie(dump: string): Map<string, Count> {
  const counts = new Map<string, Count>();
  for (const match of dump.matchAll(/cookie=0x([0-9a-f]+),.*?n_packets=(\d+), n_bytes=(\d+)/g)) {
    if (match[2] === "0") continue;
    add(counts, match[1]!.padStart(hintDigits, "0"), { packets: Number(match[2]), bytes: Number(match[3]) });
  }
  return counts;
}

/** Ports that a trace ends at: guests' and those to networks outside. */
export function outputsOf(text: string): string[] {
  const found = [...text.matchAll(/output to "([^"]+)", type "(?:|localnet)"/g)].map((match) => match[1]!);
  return [...new Set(found)];
}

/** The packet in ovn-trace's language, or an invalid_argument fault. */
export function microflowOf(packet: PacketSpec): string {
  const check = (field: keyof PacketSpec, right: boolean, wanted: string) => {
    const value = String(packet[field]).slice(0, 80);
    if (!right) throw invalidField(field, `Cannot trace ${field} ${JSON.stringify(value)}: wanted ${wanted}`);
  };
  for (const field of ["datapath", "portId"] as const) {
    check(field, /^[A-Za-z0-9_-]{1,80}$/.test(packet[field]), "a logical switch and its port");
  }
  for (const field of ["sourceMac", "destinationMac"] as const) {
    check(field, /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(packet[field]), "a MAC address");
  }
  const family = isIP(packet.sourceIp);
  check("sourceIp", family !== 0, "an IP address");
  check("destinationIp", isIP(packet.destinationIp) === family, `an IPv${family} address, as the source has`);
  check("protocol", ["tcp", "udp", "icmp"].includes(packet.protocol), "tcp, udp or icmp");
  const port = packet.destinationPort;
  const ported = packet.protocol !== "icmp";
  check("destinationPort", ported ? port >= 1 && port <= 65_535 : port === 0, "1 to 65535, with tcp and udp only");
  const ip = `ip${family}`;
  const echo = family === 6 ? "icmp6.type == 128 && icmp6.code == 0" : "icmp4.type == 8 && icmp4.code == 0";
  return [
    `inport == "${packet.portId}"`,
    `eth.src == ${packet.sourceMac}`,
    `eth.dst == ${packet.destinationMac}`,
    `${ip}.src == ${packet.sourceIp}`,
    `${ip}.dst == ${packet.destinationIp}`,
    "ip.ttl == 64",
    ported ? `${packet.protocol}.src == 40000 && ${packet.protocol}.dst == ${port}` : echo,
  ].join(" && ");
}

/** What the switch and OVN of one host know of packets. */
export class Insight {
  readonly #host: NetHost;
  readonly #programs: Programs;
  readonly #southbound: readonly string[];

  /** `southbound`: arguments that lead OVN's tools to the database, its address last. */
  constructor(host: NetHost, southbound: readonly string[], programs: Programs) {
    this.#host = host;
    this.#programs = programs;
    this.#southbound = southbound;
  }

  /** Counters of this host's ports by port id. */
  ports(): { readonly portId: string; readonly counters: Readonly<Record<string, number>> }[] {
    return this.#host.observed().map(({ logicalPort, counters }) => ({ portId: logicalPort, counters }));
  }

  /** What each ACL matched on this host. */
  async acls(): Promise<AclCount[]> {
    // The logical flows are many and seldom asked for: no copy of them is kept.
    const selects = ["ls_in_acl", "ls_out_acl"].map((stage): Operation => ({
      op: "select",
      table: "Logical_Flow",
      where: [["external_ids", "includes", map({ "stage-name": stage })]],
      columns: ["_uuid", "external_ids"],
    }));
    const [dump, answer] = await Promise.all([
      this.#programs.run("ovs-ofctl", ["dump-flows", `unix:${this.#host.managementSocket}`]),
      this.#programs.run("ovsdb-client", [
        "transact",
        ...this.#southbound,
        JSON.stringify(["OVN_Southbound", ...selects]),
      ]),
    ]);
    const counts = countsByCookie(dump);
    const sums = new Map<string, Count>();
    for (const row of (JSON.parse(answer) as { rows?: Row[] }[]).flatMap(({ rows }) => rows ?? [])) {
      const hint = entriesOf(row.external_ids).find(([key]) => key === "stage-hint")?.[1];
      const count = counts.get((uuidOf(atomsOf(row._uuid)[0]) ?? "").slice(0, hintDigits));
      if (hint !== undefined && count) add(sums, String(hint).padStart(hintDigits, "0"), count);
    }
    return [...sums].map(([acl, count]) => ({ acl, ...count }));
  }

  /** Follows a packet through the logical network; sends none. */
  async trace(packet: PacketSpec): Promise<PacketTrace> {
    const flow = microflowOf(packet);
    const [options, address] = [this.#southbound.slice(0, -1), this.#southbound.at(-1)!];
    const text = await this.#programs.run("ovn-trace", [
      ...options,
      `--db=${address}`,
      ...Array<string>(trackedMax).fill("--ct=new"),
      packet.datapath,
      flow,
    ]);
    return { outputs: outputsOf(text), text: text.slice(0, traceCharsMax) };
  }
}
