import type { ObservedPort } from "./switch.ts";
import type { Programs } from "./programs.ts";

/**
 * Flows of our own among ovn-controller's, in the tables where it judges what a port may claim (port security). OVN 23.03
 * lets router announcements and every neighbour solicitation pass there, and drops advertisements of link-local
 * addresses: it compares a hop limit with 225 that is always 255. ovn-controller takes its own flows back one by one,
 * and all flows when it connects anew: then these are put there again at once.
 */

/** Where OVN 23.03 asks whether a port may send a frame, and the part of it for ARP and neighbours. */
const tables = { any: 73, neighbours: 74 } as const;
/** Above every flow of OVN's in these tables. */
const ranks = { never: 200, own: 190, rest: 180 } as const;
/** OVN's cookies have 32 bits: these 16 above them are ours alone, the other 48 are the port's MAC. */
const cookieTag = "5543";
const ours = `cookie=0x${cookieTag}000000000000/0xffff000000000000`;
/** OVN's register in which a check tells its result: 1 means that the frame is dropped. */
const result = (failed: 0 | 1) => `actions=load:${failed}->NXM_NX_REG10[12]`;
/** What OVS sees where a neighbour message has no such option, and where its options contradict themselves. */
const [noMac, noTarget] = ["00:00:00:00:00:00", "::"];

/** A port whose neighbour messages are judged. */
interface Guarded {
  readonly ofport: number;
  readonly mac: string;
}

/** "fe80::5054:ff:fe00:1" of 52:54:00:00:00:01. */
export function linkLocalOf(mac: string): string {
  const [a, b, c, d, e, f] = mac.split(":").map((part) => Number.parseInt(part, 16)) as number[];
  const words = [(a! ^ 2) << 8 | b!, c! << 8 | 0xff, 0xfe00 | d!, e! << 8 | f!];
  return `fe80::${words.map((word) => word.toString(16)).join(":")}`;
}

/** The flows of one port as `ovs-ofctl add-flows` reads them. */
export function guardFlows({ ofport, mac }: Guarded): string[] {
  const flow = (table: number, priority: number, match: string, failed: 0 | 1) =>
    `cookie=0x${cookieTag}${
      mac.replaceAll(":", "")
    },table=${table},priority=${priority},in_port=${ofport},icmp6,${match} ` +
    result(failed);
  const { any, neighbours } = tables;
  const solicits = "icmp_type=135,icmp_code=0", advertises = `icmp_type=136,icmp_code=0,nd_target=${linkLocalOf(mac)}`;
  return [
    flow(any, ranks.never, "icmp_type=134", 1),
    flow(any, ranks.never, "icmp_type=137", 1),
    // An option given twice hides from the switch, and not from a guest's kernel.
    flow(neighbours, ranks.never, `${solicits},nd_target=${noTarget}`, 1),
    flow(neighbours, ranks.rest, "icmp_type=135", 1),
    ...[noMac, mac].flatMap((own) => [
      flow(neighbours, ranks.own, `${solicits},nw_ttl=255,nd_sll=${own}`, 0),
      flow(neighbours, ranks.own, `${advertises},nw_ttl=255,nd_tll=${own}`, 0),
    ]),
  ];
}

const flowsPerPort = guardFlows({ ofport: 1, mac: noMac }).length;

/** Keeps the flows of guarded ports on one bridge. */
export class Guard {
  readonly #programs: Programs;
  readonly #bridge: string;
  readonly #file: string;
  /** What was put there, "ofport mac" each. */
  #installed = new Set<string>();
  #sure = false;

  /** `bridge`: where its flows are asked for; `file`: where the flows to add are written for the program. */
  constructor(o: { readonly bridge: string; readonly file: string }, programs: Programs) {
    this.#bridge = o.bridge;
    this.#file = o.file;
    this.#programs = programs;
  }

  /** Makes the flows those of the ports; answers how many ports changed, and counts those the switch has not taken yet. */
  async apply(macs: ReadonlyMap<string, string>, observed: readonly ObservedPort[]): Promise<number> {
    const wanted = new Map<string, Guarded>();
    let missing = macs.size;
    for (const { logicalPort, ofport } of observed) {
      const mac = macs.get(logicalPort);
      if (mac === undefined || ofport === undefined) continue;
      missing--;
      wanted.set(`${ofport} ${mac}`, { ofport, mac });
    }
    if (wanted.size === 0 && this.#installed.size === 0 && this.#sure) return missing;
    if (this.#sure) this.#sure = await this.#count() === this.#installed.size * flowsPerPort;
    const fresh = this.#sure ? [...wanted].filter(([key]) => !this.#installed.has(key)) : [...wanted];
    const gone = this.#sure ? [...this.#installed].filter((key) => !wanted.has(key)) : [];
    if (this.#sure && fresh.length + gone.length === 0) return missing;
    const lines = [
      ...(this.#sure ? [] : [`delete ${ours}`]),
      ...gone.map((key) => {
        const [ofport, mac] = key.split(" ") as [string, string];
        return `delete cookie=0x${cookieTag}${mac.replaceAll(":", "")}/-1,in_port=${ofport}`;
      }),
      ...fresh.flatMap(([, port]) => guardFlows(port).map((flow) => `add ${flow}`)),
    ];
    this.#sure = false;
    await Deno.writeTextFile(this.#file, lines.join("\n") + "\n");
    try {
      // All at once: no moment without them.
      await this.#programs.run("ovs-ofctl", ["--bundle", "add-flows", this.#bridge, this.#file]);
    } catch (error) {
      // The bridge of a fresh host comes some milliseconds after its row.
      if (wanted.size === 0) return missing + 1;
      throw error;
    }
    this.#installed = new Set(wanted.keys());
    this.#sure = true;
    return fresh.length + gone.length + missing;
  }

  /** Runs until the signal, calling `lost` whenever flows of these tables were deleted by whomever. */
  async watch(lost: () => void, signal: AbortSignal): Promise<void> {
    const spec = `watch:!initial,!add,!modify,table=${tables.neighbours}`;
    for await (const _line of this.#programs.follow("ovs-ofctl", ["monitor", this.#bridge, spec], signal)) lost();
  }

  async #count(): Promise<number> {
    const text = await this.#programs.run("ovs-ofctl", ["dump-aggregate", this.#bridge, ours]);
    return Number(/flow_count=(\d+)/.exec(text)?.[1] ?? -1);
  }
}
