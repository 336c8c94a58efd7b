/**
 * The marks that an installation leaves, on the console and at the deployer: what a lane, an operator at a serial
 * console and a BMC's log all wait for. One name per step that ended well, in order, and one for the step that did not.
 */

/** Steps that ended well, in the order in which one machine shows them. */
export const markerNames = [
  "pre-install.boot",
  "pre-install.phone-home.complete",
  "install.bundle-downloaded",
  "install.disko.complete",
  "install.nixos-install.complete",
  "reboot",
  "post-install.boot",
  "desired-system-active",
] as const;
export type MarkerName = typeof markerNames[number];

/** What a machine shows instead when that step fails; its detail begins with the code of the cause. */
export const failureMarkers = {
  "pre-install.boot": "pre-install.boot.failed",
  "pre-install.phone-home.complete": "pre-install.phone-home.failed",
  "install.bundle-downloaded": "install.bundle.failed",
  "install.disko.complete": "install.disko.failed",
  "install.nixos-install.complete": "install.nixos-install.failed",
  "reboot": "reboot.failed",
  "post-install.boot": "post-install.boot.failed",
  "desired-system-active": "desired-system-failed",
} as const satisfies Readonly<Record<MarkerName, string>>;
export type FailureMarkerName = typeof failureMarkers[MarkerName];

/**
 * Neither a step nor a failed one: the machine waits for an operator's approval; a generation did not hold, and the one
 * before runs again.
 */
export const noticeMarkers = ["pre-install.phone-home.pending", "desired-system-rolled-back"] as const;
export type NoticeMarkerName = typeof noticeMarkers[number];

/** Every name there is. */
export type AnyMarkerName = MarkerName | FailureMarkerName | NoticeMarkerName;
export const allMarkerNames: readonly AnyMarkerName[] = [
  ...markerNames,
  ...Object.values(failureMarkers),
  ...noticeMarkers,
];

export interface MarkerLine {
  readonly name: AnyMarkerName;
  /** The node, or who the machine says it is while nobody has given it a name. */
  readonly node: string;
  /** Of a failure `code: sentence`; of others whatever helps. One line. */
  readonly detail: string;
}

const word = "ULTRACLOUD_MARKER";
/** What the deployer keeps of a detail. */
export const markerDetailCharsMax = 2048;

/** A name for a machine in a marker: a serial may hold anything, a marker's last word only what a node's name may. */
export function markerNode(identity: string): string {
  const plain = identity.toLowerCase().replaceAll(/[^a-z0-9-]+/g, "-").replaceAll(/^-+|-+$/g, "").slice(0, 63);
  return plain === "" ? "unknown" : plain;
}

/** `ULTRACLOUD_MARKER <name>.<node>`, then the detail when there is one. */
export function formatMarker({ name, node, detail }: MarkerLine): string {
  // deno-lint-ignore no-control-regex -- control characters are what is taken out
  const said = detail.replaceAll(/[\x00-\x1f\x7f]+/g, " ").trim().slice(0, markerDetailCharsMax);
  return `${word} ${name}.${markerNode(node)}${said === "" ? "" : ` ${said}`}`;
}

/** The marker in a line of a console, wherever in the line it begins; undefined without one that is known. */
export function parseMarker(line: string): MarkerLine | undefined {
  const match = /ULTRACLOUD_MARKER ([a-z0-9.-]+)\.([a-z0-9-]{1,63})(?: ([^\r\n]*))?/.exec(line);
  const name = allMarkerNames.find((known) => known === match?.[1]);
  if (match === null || name === undefined) return undefined;
  return { name, node: match[2]!, detail: (match[3] ?? "").trim() };
}

/** Every marker of a console's text, in order. A line that is still being written is left for the next look. */
export function parseMarkers(text: string): MarkerLine[] {
  return text.split("\n").slice(0, -1).map(parseMarker).filter((line) => line !== undefined);
}

/** The line that a console shows for the name, as a pattern for people and for `expected-markers.txt`. */
export function markerPattern(name: AnyMarkerName, node = "*"): string {
  return `${word} ${name}.${node}`;
}
