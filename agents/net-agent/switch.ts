import { fault } from "@ultracloud/base";
import {
  atomsOf,
  entriesOf,
  map,
  namedUuid,
  type Operation,
  type OvsdbClient,
  type Row,
  set,
  uuid,
  uuidOf,
  type Value,
} from "@ultracloud/ovsdb";

/** What the switch's configuration is read for. */
export const switchTables: Readonly<Record<string, readonly string[]>> = {
  Open_vSwitch: ["bridges", "external_ids"],
  Bridge: ["name", "ports", "datapath_type", "fail_mode", "external_ids"],
  Port: ["name", "interfaces", "external_ids"],
  Interface: ["name", "type", "external_ids", "ofport", "link_state", "error", "statistics"],
};

/** Marks what this agent made; the rest belongs to ovn-controller or to a person. */
const ownerId = "uc-owner";
const owner = "net-agent";

export interface BridgeSpec {
  readonly name: string;
  readonly secure: boolean;
}

export interface SwitchPort {
  readonly name: string;
  readonly bridge: string;
  /** Logical port that it is; empty: none, as an uplink. */
  readonly logicalPort: string;
}

export interface SwitchConfig {
  readonly externalIds: Readonly<Record<string, string>>;
  readonly bridges: readonly BridgeSpec[];
  /** undefined: not known yet; those that are there stay. */
  readonly ports: readonly SwitchPort[] | undefined;
}

/** One interface as the switch sees it. */
export interface ObservedPort {
  readonly device: string;
  readonly logicalPort: string;
  /** Its number on the bridge; undefined until the switch has taken it. */
  readonly ofport: number | undefined;
  readonly up: boolean;
  readonly error: string;
  readonly counters: Readonly<Record<string, number>>;
}

const texts = (value: Value | undefined): Record<string, string> =>
  Object.fromEntries(entriesOf(value).map(([key, text]) => [String(key), String(text)]));

/** Marks of rows, which are replaced and never changed. */
const known = new WeakMap<Row, Readonly<Record<string, string>>>();
function marksOf(row: Row | undefined): Readonly<Record<string, string>> {
  if (!row) return {};
  let marks = known.get(row);
  if (!marks) known.set(row, marks = texts(row.external_ids));
  return marks;
}

/**
 * The operations that make the switch what `config` says; none when it is. Ports and bridges that this agent did not
 * make stay, those it made and nobody wants go.
 */
export function switchOperations(config: SwitchConfig, db: OvsdbClient): Operation[] {
  const { replica } = db;
  const [root] = replica.rows("Open_vSwitch");
  if (!root) {
    // A fresh database: the next look does the rest.
    return [{ op: "insert", table: "Open_vSwitch", row: {} }];
  }
  const operations: Operation[] = [];
  const [rootId, rootRow] = root;
  const present = texts(rootRow.external_ids);
  const missing = Object.entries(config.externalIds).filter(([key, value]) => present[key] !== value);
  if (missing.length > 0) {
    operations.push({
      op: "mutate",
      table: "Open_vSwitch",
      where: [["_uuid", "==", uuid(rootId)]],
      mutations: [
        ["external_ids", "delete", set(missing.map(([key]) => key))],
        ["external_ids", "insert", map(Object.fromEntries(missing))],
      ],
    });
  }
  const bridges = new Map([...replica.rows("Bridge")].map(([id, row]) => [String(row.name), { id, row }]));
  for (const bridge of config.bridges) {
    if (!bridges.has(bridge.name)) operations.push(...bridgeOperations(bridge, rootId));
  }
  if (!config.ports) return operations;
  const names = new Map([...replica.rows("Port")].map(([id, row]) => [id, String(row.name)]));
  const wanted = new Map(config.ports.map((port) => [port.name, port]));
  for (const [name, { id, row }] of bridges) {
    const gone: string[] = [];
    for (const atom of atomsOf(row.ports)) {
      const portId = uuidOf(atom)!;
      const portRow = replica.get("Port", portId);
      const ours = marksOf(portRow)[ownerId] === owner;
      const portName = names.get(portId) ?? "";
      if (!ours || portName === name) continue;
      const want = wanted.get(portName);
      if (want?.bridge === name && logicalPortOf(db, portRow) === want.logicalPort) wanted.delete(portName);
      else gone.push(portId);
    }
    if (gone.length > 0) operations.push(portMutation(id, "delete", set(gone.map(uuid))));
  }
  let count = 0;
  for (const port of wanted.values()) {
    const bridge = bridges.get(port.bridge);
    // Its bridge is inserted by this very transaction: the port follows with the next look.
    if (bridge) operations.push(...portOperations(port, bridge.id, count++));
  }
  return operations;
}

function logicalPortOf(db: OvsdbClient, port: Row | undefined): string {
  const [first] = atomsOf(port?.interfaces);
  return marksOf(db.replica.get("Interface", uuidOf(first) ?? ""))["iface-id"] ?? "";
}

function bridgeOperations({ name, secure }: BridgeSpec, rootId: string): Operation[] {
  const [bridge, port, iface] = [`b_${name}`, `p_${name}`, `i_${name}`].map((text) => text.replaceAll("-", "_"));
  const external_ids = map({ [ownerId]: owner });
  return [
    { op: "insert", table: "Interface", "uuid-name": iface!, row: { name, type: "internal", external_ids } },
    { op: "insert", table: "Port", "uuid-name": port!, row: { name, interfaces: namedUuid(iface!), external_ids } },
    {
      op: "insert",
      table: "Bridge",
      "uuid-name": bridge!,
      row: {
        name,
        datapath_type: "netdev",
        ports: namedUuid(port!),
        external_ids,
        ...(secure ? { fail_mode: "secure" } : {}),
      },
    },
    {
      op: "mutate",
      table: "Open_vSwitch",
      where: [["_uuid", "==", uuid(rootId)]],
      mutations: [["bridges", "insert", namedUuid(bridge!)]],
    },
  ];
}

function portOperations(port: SwitchPort, bridgeId: string, n: number): Operation[] {
  const ids = { [ownerId]: owner, ...(port.logicalPort === "" ? {} : { "iface-id": port.logicalPort }) };
  return [
    {
      op: "insert",
      table: "Interface",
      "uuid-name": `ni${n}`,
      row: { name: port.name, external_ids: map(ids) },
    },
    {
      op: "insert",
      table: "Port",
      "uuid-name": `np${n}`,
      row: { name: port.name, interfaces: namedUuid(`ni${n}`), external_ids: map({ [ownerId]: owner }) },
    },
    portMutation(bridgeId, "insert", namedUuid(`np${n}`)),
  ];
}

function portMutation(bridgeId: string, mutator: "insert" | "delete", ports: Value): Operation {
  return {
    op: "mutate",
    table: "Bridge",
    where: [["_uuid", "==", uuid(bridgeId)]],
    mutations: [["ports", mutator, ports]],
  };
}

/** Looks that a fresh switch takes: the root row, its bridges, their ports; and one that finds nothing to do. */
const looksMax = 5;

/** Makes the switch what `config` says; answers how many operations that took. */
export async function applySwitch(config: SwitchConfig, db: OvsdbClient): Promise<number> {
  let written = 0;
  for (let look = 0; look < looksMax; look++) {
    const operations = switchOperations(config, db);
    if (operations.length === 0) return written;
    await db.transact([
      ...operations,
      // vswitchd takes the configuration over when this number grows.
      { op: "mutate", table: "Open_vSwitch", where: [], mutations: [["next_cfg", "+=", 1]] },
      { op: "comment", comment: `ultracloud net-agent: ${operations.length} operations` },
    ]);
    written += operations.length;
  }
  throw fault("internal", "switch_unsettled", `Cannot settle the switch: ${looksMax} writes left something to do`);
}

/** Interfaces of this agent's logical ports as they are. */
export function observedPorts(db: OvsdbClient): ObservedPort[] {
  const observed: ObservedPort[] = [];
  for (const row of db.replica.rows("Interface").values()) {
    const ids = marksOf(row);
    if (ids[ownerId] !== owner || ids["iface-id"] === undefined) continue;
    const ofport = Number(atomsOf(row.ofport)[0] ?? -1);
    observed.push({
      device: String(row.name),
      logicalPort: ids["iface-id"],
      ofport: ofport > 0 ? ofport : undefined,
      up: row.link_state === "up" && ofport > 0,
      error: String(atomsOf(row.error)[0] ?? ""),
      counters: Object.fromEntries(
        entriesOf(row.statistics).map(([key, value]) => [String(key), Number(value)]),
      ),
    });
  }
  return observed;
}
