import type { NodePrincipal } from "@ultracloud/authz";
import type { DesiredSystem, MachineFacts } from "@ultracloud/cluster-state";
import { defineKind } from "@ultracloud/platform";

/** Markers kept for a node; the path of an installation has eight. */
export const markersMax = 64;

export interface MarkerRow {
  readonly name: string;
  readonly detail: string;
  readonly timeMs: number;
}

/** A node as the deployer knows it, beside what the cluster state says. */
export interface NodeValue {
  /** Pre-registered serial; the cluster state's counts when this is empty. */
  readonly serial: string;
  readonly class: string;
  readonly pool: string;
  /** Hash of the token that is good for it now. */
  readonly tokenSha256?: string;
  /** Machine that holds the name: its serial or generated id. */
  readonly machine?: string;
  readonly enrolledMs?: number;
  readonly phoneHomeMs?: number;
  /** When its agent first reported an active system. */
  readonly installedMs?: number;
  readonly facts?: MachineFacts;
  /** Disk of the plan it was last given. */
  readonly disk?: { readonly serial: string; readonly wwn: string };
  readonly markers: readonly MarkerRow[];
  /** Public keys that the machine made for its agents, by agent. */
  readonly identities?: Readonly<Partial<Record<NodePrincipal, PublicKey>>>;
}

/** The public half of an Ed25519 key, as a JWK. */
export interface PublicKey {
  readonly kty: "OKP";
  readonly crv: "Ed25519";
  readonly x: string;
}

export const nodeKind = defineKind<NodeValue>({ name: "node" });
export const emptyNode: NodeValue = { serial: "", class: "", pool: "", markers: [] };

/** A bootstrap token, by its hash; the token itself is nowhere. */
export interface TokenRow {
  /** Empty: bound to no node. */
  readonly node: string;
  readonly expiresMs: number;
  /** Machine that used it; from then on nobody else can. */
  readonly usedBy?: string;
  /** Its node is installed: it opens nothing any more. */
  readonly spent?: boolean;
}

/** A machine that is nobody we know, or that somebody has approved. */
export interface MachineRow {
  readonly id: string;
  readonly facts: MachineFacts;
  readonly address: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly attempts: number;
  readonly wantedNode: string;
  readonly reason: string;
  readonly approvedNode?: string;
}

export interface ObservedRow {
  readonly state: string;
  readonly currentSystem: string;
  readonly targetSystem: string;
  readonly intentId: string;
  readonly reason: string;
  readonly generation: number;
  readonly bootId: string;
  readonly agentVersion: string;
  readonly reportedMs: number;
  /** When state and intent became what they are. */
  readonly sinceMs: number;
}

/** What the agent of a node is offered. */
export interface OfferRow {
  readonly intentId: string;
  readonly system: DesiredSystem;
  readonly offeredMs: number;
}

export interface QuarantineRow {
  readonly class: string;
  readonly targetSystem: string;
  /** `intent` of the desired system that failed; another one tries again. */
  readonly intent: string;
  readonly node: string;
  readonly reason: string;
  readonly timeMs: number;
}

export interface RolloutRow {
  /** Hash of what all its nodes should become; orders hold for it alone. */
  readonly signature: string;
  readonly paused: boolean;
  readonly aborted: boolean;
  readonly failuresAccepted: number;
  readonly batch: number;
}

export interface WriterRow {
  readonly epoch: number;
  readonly instance: string;
  readonly url: string;
  readonly bootstrapUrl: string;
}

export interface ClusterRow {
  readonly revision: number;
  readonly sha256: string;
  readonly parts: number;
  readonly appliedMs: number;
}

export interface BundleRow {
  readonly sha256: string;
  readonly bytesCount: number;
  readonly signature: string;
}

/** How often what nodes are trusted by has changed; it grows with the clock, so that a restored deployer goes on. */
export interface TrustRow {
  readonly revision: number;
}

export const rowKeys = {
  trust: "trust",
  writer: "writer",
  cluster: "cluster",
  clusterPart: (revision: number, part: number) => `cluster-part|${revision}|${String(part).padStart(4, "0")}`,
  token: (sha256: string) => `token|${sha256}`,
  machines: "machine|",
  machine: (id: string) => `machine|${id}`,
  observed: (node: string) => `observed|${node}`,
  offer: (node: string) => `offer|${node}`,
  quarantines: "quarantine|",
  quarantine: (group: string, targetSystem: string) => `quarantine|${group}|${targetSystem}`,
  rollout: (name: string) => `rollout|${name}`,
  bundle: "bundle",
};
