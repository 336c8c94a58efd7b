import { fault } from "@ultracloud/base";
import { type AnyMarkerName, markerDetailCharsMax } from "@ultracloud/cluster-state";
import type { Core } from "./core.ts";
import {
  markersMax,
  nodeKind,
  type ObservedRow,
  type OfferRow,
  type QuarantineRow,
  rowKeys,
  type TokenRow,
} from "./kinds.ts";

/** A report that says nothing new is written again when the last one is this old, so that silence can be told. */
const seenMs = 5_000;

/** The last words of an installation, and of each change after it, stand with the steps before them. */
const markerOf: Partial<Record<ObservedRow["state"], AnyMarkerName>> = {
  "active": "desired-system-active",
  "rolled-back": "desired-system-rolled-back",
  "failed": "desired-system-failed",
};

/**
 * Keeps what an agent says of its node. A system that was rolled back is kept from the whole class until the intent
 * changes; one that is active ends the life of the bootstrap token.
 */
export async function keepReport(
  core: Core,
  name: string,
  report: Omit<ObservedRow, "reportedMs" | "sinceMs">,
): Promise<void> {
  const quarantined = await core.writer.change(async (tx) => {
    const node = await core.node(name, tx);
    if (node.record === undefined && node.spec === undefined) {
      throw fault("not_found", "node_not_found", `Cannot keep a report of ${name}: no node has that name`);
    }
    const key = rowKeys.observed(name);
    const before = await tx.row<ObservedRow>(key);
    const same = before !== undefined && before.state === report.state && before.intentId === report.intentId;
    const row: ObservedRow = { ...report, reportedMs: tx.nowMs, sinceMs: same ? before.sinceMs : tx.nowMs };
    const news = before === undefined ||
      JSON.stringify({ ...before, reportedMs: 0 }) !== JSON.stringify({ ...row, reportedMs: 0 });
    if (news || tx.nowMs - before.reportedMs >= seenMs) tx.putRow(key, row);
    const value = node.record?.value;
    const marker = same ? undefined : markerOf[report.state];
    const installed = report.state === "active" && value?.machine !== undefined && value.installedMs === undefined;
    if (value !== undefined && (marker !== undefined || installed)) {
      const detail = (report.reason === "" ? report.targetSystem : report.reason).slice(0, markerDetailCharsMax);
      const markers = marker === undefined
        ? value.markers
        : [...value.markers, { name: marker, detail, timeMs: tx.nowMs }];
      tx.update(nodeKind, node.record!, {
        value: { ...value, markers: markers.slice(-markersMax), ...(installed ? { installedMs: tx.nowMs } : {}) },
      });
    }
    if (installed) {
      const token = value.tokenSha256 === undefined
        ? undefined
        : await tx.row<TokenRow>(rowKeys.token(value.tokenSha256));
      if (token !== undefined) {
        tx.putRow(rowKeys.token(value.tokenSha256!), { ...token, spent: true }, 7 * 24 * 3_600_000);
      }
    }
    if (report.state !== "rolled-back") return undefined;
    const offer = await tx.row<OfferRow>(rowKeys.offer(name));
    if (offer === undefined || offer.intentId !== report.intentId) return undefined;
    const group = core.groupOf(node);
    const held = rowKeys.quarantine(group, offer.system.target_system);
    if (await tx.row(held)) return undefined;
    const quarantine: QuarantineRow = {
      class: group,
      targetSystem: offer.system.target_system,
      intent: offer.system.intent,
      node: name,
      reason: report.reason,
      timeMs: tx.nowMs,
    };
    tx.putRow(held, quarantine);
    return quarantine;
  }, { serialize: `report/${name}` });
  if (quarantined !== undefined) core.platform.log.warn("generation quarantined", { ...quarantined });
}
