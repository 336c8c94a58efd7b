import { fault } from "@ultracloud/base";
import type { Tx } from "@ultracloud/platform";
import type { Binding, Port, Rule, Subnet } from "./domain/types.ts";

export type Support = "enforced" | "partial" | "not_enforced";

export interface EngineFeature {
  readonly name:
    | "isolation"
    | "dhcp"
    | "security_group_ingress"
    | "security_group_egress"
    | "east_west"
    | "floating_ip"
    | "anti_spoofing"
    | "router_guard"
    | "host_isolation"
    | "ipv6"
    | "network_acl"
    | "routing";
  readonly support: Support;
  readonly note: string;
}

/** What an engine is told about a port. */
export interface BindRequest {
  readonly portId: string;
  readonly host: string;
  readonly port: Port;
  readonly subnet: Subnet;
  /** Rules of all the port's groups. */
  readonly rules: readonly Rule[];
}

/** How far a bound port is. */
export interface PortView {
  /** Its host carries it: a guest may start. */
  readonly active: boolean;
  /** Why it is not active. */
  readonly reason: string;
}

/**
 * The data plane's part in bindings. Works inside the caller's transaction: what it takes is recorded with the port
 * or not at all. `bind` again keeps what the port has and still needs; `unbind` gives everything back.
 */
export interface Engine {
  readonly name: "user" | "ovn";
  readonly features: readonly EngineFeature[];
  /** Whether two hosts can carry a port at a time, while its guest moves from one to the other. */
  readonly carriesTwice: boolean;
  /** Name under which bindings of a port wait for each other; those that take from one pool share it. */
  turnOf(port: string): string;
  /** True when the port's binding is what `bind` would make of these rules now. */
  stands(port: Port, rules: readonly Rule[]): boolean;
  bind(tx: Tx, request: BindRequest): Promise<Binding>;
  unbind(tx: Tx, request: Pick<BindRequest, "portId" | "host" | "port">): Promise<void>;
  /** How far a bound port is; asks nobody. */
  view(portId: string, port: Port): PortView;
}

/** Refuses what the engine would only write down: nobody shall believe in a rule that nothing enforces. */
export function requireFeature(engine: Engine, name: EngineFeature["name"], doing: string): void {
  const feature = engine.features.find((f) => f.name === name);
  if (feature?.support === "enforced") return;
  throw fault(
    "failed_precondition",
    "engine_unsupported",
    `Cannot ${doing} as engine ${engine.name} does not enforce ${name}: wanted engine ovn`,
  );
}
