import type { DescService } from "@bufbuild/protobuf";
import type { FleetMember } from "@ultracloud/launch";
import { type Engine, Support } from "@ultracloud/proto/prismnet/v1";
import type { ComponentStatus } from "../commands/system.ts";
import { enumName } from "../frame/columns.ts";
import { alignColumns } from "../frame/render.ts";

/** Written as `result.json`; read by tests and by people who come later. */
export interface QuickstartResult {
  success: boolean;
  profile: string;
  startedAt: string;
  durationMs: number;
  kept: boolean;
  accelerator: string;
  components: readonly ComponentStatus[];
  steps: readonly { readonly step: string; readonly ms: number }[];
  vm?: { name: string; id: string; ip: string; url: string; httpStatus: number; marker: string };
  /** On OVN: as what the guest goes out, where it is reached, and the network namespace all of it is in. */
  outside?: { natIp: string; floatingIp: string; namespace: string };
  /** What became of a guest port the security group forbids. */
  forbiddenPort?: string;
  network?: { engine: string; features: readonly { feature: string; support: string; note: string }[] };
  /** What could not be done here, each with its reason. */
  notDone: readonly string[];
  error?: { code: string; message: string };
}

export function networkOf(engine: Engine): NonNullable<QuickstartResult["network"]> {
  return {
    engine: engine.name,
    features: engine.features.map((f) => ({ feature: f.name, support: enumName(Support, f.support), note: f.note })),
  };
}

/** The one table a person sees at the end. */
export function summary(result: QuickstartResult): string {
  const rows: string[][] = [["COMPONENT", "HEALTH", "ENDPOINT"]];
  for (const c of result.components) rows.push([c.component, c.health, c.endpoint]);
  const lines = [alignColumns(rows), ""];
  if (result.vm) {
    lines.push(
      alignColumns([
        ["VM", `${result.vm.name} (${result.vm.id}, ${result.accelerator})`],
        ["address", result.vm.ip],
        ["page", `${result.vm.url} answers HTTP ${result.vm.httpStatus}`],
        ["console", result.vm.marker],
        ...(result.outside
          ? [
            ["goes out as", `${result.outside.natIp}, the NAT gateway's address`],
            [
              "reached at",
              `floating IP ${result.outside.floatingIp} (in the network namespace ${result.outside.namespace})`,
            ],
          ]
          : []),
      ]),
      "",
    );
  }
  if (result.forbiddenPort) lines.push(`security group: ${result.forbiddenPort}`);
  const enforced = (result.network?.features ?? []).filter(({ support }) => support === "enforced");
  if (enforced.length > 0) {
    const names = enforced.map(({ feature }) => feature.replaceAll("_", " ")).join(", ");
    lines.push(`network engine ${result.network!.engine} enforces: ${names}`);
  }
  for (const feature of result.network?.features ?? []) {
    if (feature.support !== "enforced") {
      lines.push(
        `network engine ${result.network!.engine}: ${feature.feature.replaceAll("_", " ")} is ${
          feature.support.replace("-", " ")
        } (${feature.note})`,
      );
    }
  }
  for (const text of result.notDone) lines.push(`not done: ${text}`);
  lines.push(`${result.success ? "OK" : "FAILED"} in ${(result.durationMs / 1000).toFixed(1)} s`);
  return lines.join("\n");
}

/** The machine-readable surface of what runs: each component with its listeners, callees and permissions by name. */
export function surfaceManifest(
  members: readonly FleetMember[],
  services: ReadonlyMap<string, readonly DescService[]>,
): unknown {
  return {
    version: 1,
    components: members.map(({ manifest }) => ({
      name: manifest.name,
      kind: manifest.kind,
      summary: manifest.summary,
      listen: manifest.listen,
      calls: manifest.calls,
      services: (services.get(manifest.name) ?? []).map((s) => ({
        name: s.typeName,
        methods: s.methods.map((m) => m.name),
      })),
    })),
  };
}
