/**
 * The direction rules of ARCHITECTURE.md as data: who may import whom, and why. `cli/dev rooms` holds the module graph
 * against them.
 */
export interface RoomRule {
  /** Rooms this one may import; `lib/*` stands for all of lib but lib/testing. */
  readonly rooms: readonly string[];
  /** npm packages this one may import; absent means any that the root import map pins. */
  readonly npm?: readonly string[];
  /** True when `node:` modules are refused too. */
  readonly noNode?: boolean;
  readonly reason: string;
}

const overTheWire = ["lib/base", "lib/config", "lib/observe", "lib/rpc", "proto"];
const component: RoomRule = {
  rooms: ["lib/*", "proto"],
  reason: "a component reaches another over RPC, and the edge stands in `calls` of its component.json",
};

const roomRules: Readonly<Record<string, RoomRule>> = {
  "proto": {
    rooms: [],
    npm: ["@bufbuild/protobuf"],
    noNode: true,
    reason: "contracts stand alone on the protobuf runtime",
  },
  "lib/base": { rooms: [], npm: ["zod"], reason: "everything stands on it, so it stands on zod alone" },
  "lib/raft": { rooms: ["lib/base"], npm: [], noNode: true, reason: "raft is replayable: lib/base and nothing else" },
  "lib/config": { rooms: ["lib/base", "lib/observe"], reason: "it knows no wire and no service" },
  "lib/observe": { rooms: ["lib/base"], reason: "everything may log, so it stands low" },
  "lib/wal": { rooms: ["lib/base", "lib/observe"], reason: "the disk boundary knows no wire" },
  "lib/sqlite": { rooms: ["lib/base", "lib/observe"], reason: "the disk boundary knows no wire" },
  "lib/rpc": { rooms: ["lib/base", "lib/observe", "lib/config", "proto"], reason: "it is the one wire boundary" },
  "lib/authz": { rooms: overTheWire, reason: "tokens and policy travel by RPC" },
  "lib/platform": { rooms: overTheWire, reason: "records reach the stores by RPC" },
  "lib/qmp": { rooms: overTheWire, reason: "a protocol client knows no service" },
  "lib/ovsdb": { rooms: overTheWire, reason: "a protocol client knows no service" },
  "lib/cluster-state": {
    rooms: ["lib/base"],
    noNode: true,
    reason: "what a cluster is depends on nothing that runs it",
  },
  "lib/bootstrap": {
    rooms: ["lib/base", "lib/cluster-state", "lib/config"],
    reason: "a machine that is nobody yet speaks plain HTTPS and knows no service",
  },
  "lib/replica": {
    rooms: ["lib/base", "lib/observe", "lib/wal", "lib/sqlite", "lib/raft", "lib/rpc", "lib/config", "proto"],
    reason: "it binds raft to log, state and wire (docs/adr/0010)",
  },
  "lib/launch": {
    rooms: ["lib/base", "lib/cluster-state", "lib/config", "lib/observe", "lib/authz"],
    reason: "it starts components from their manifests and makes their keys (docs/adr/0010)",
  },
  "cli": {
    rooms: ["lib/base", "lib/cluster-state", "lib/config", "lib/rpc", "lib/authz", "lib/launch", "proto", "cli/dev"],
    reason: "the CLI is a client like any other (docs/adr/0010)",
  },
  "cli/dev": { rooms: ["lib/*"], reason: "repository tools read manifests and folders, never a service's code" },
};

/** Rooms that may import anything and that only tests may import. */
export const leafRooms: ReadonlySet<string> = new Set(["lib/testing", "test-cluster"]);

/** The rule of a room; undefined for a room nobody has written a rule for. */
export function ruleOf(room: string): RoomRule | undefined {
  if (room.startsWith("services/") || room.startsWith("agents/")) return component;
  return roomRules[room];
}

/** Whether `rule` lets its room import `target`. */
export function mayImport(rule: RoomRule, target: string): boolean {
  if (rule.rooms.includes(target)) return true;
  return rule.rooms.includes("lib/*") && target.startsWith("lib/") && !leafRooms.has(target);
}

/** What `domain/` of a component may use at run time besides its own files. */
export const domainRooms: readonly string[] = ["lib/base"];

/** Files that may import anything: they never ship. */
export function isExempt(path: string): boolean {
  if (/_(test|bench|bench_main|sim_main|test_support)\.ts$/.test(path)) return true;
  // What only tests are made of: `test_world.ts`, `test_nodes.ts`.
  if (/\/test_[a-z0-9_]+\.ts$/.test(path)) return true;
  return path.startsWith("lib/testing/") || path.startsWith("test-cluster/");
}

/** Room a file belongs to: the longest of its folders that is one. */
export function roomOf(path: string): string {
  const parts = path.split("/");
  if (parts[0] === "cli") return parts[1] === "dev" ? "cli/dev" : "cli";
  if (parts[0] === "lib" || parts[0] === "services" || parts[0] === "agents") return parts.slice(0, 2).join("/");
  return parts[0] ?? "";
}
