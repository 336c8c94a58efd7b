import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { examineHost, type Finding } from "../doctor/mod.ts";
import { command } from "../frame/command.ts";
import { type ComponentName, defaultPorts } from "../frame/contexts.ts";
import type { Session } from "../frame/session.ts";
import { version as ucVersion } from "../version.ts";

export interface ComponentStatus {
  readonly component: string;
  readonly health: string;
  readonly version: string;
  readonly latencyMs: number | undefined;
  readonly endpoint: string;
  readonly detail: string;
}

const statusColumns = [
  { name: "component", get: (s: ComponentStatus) => s.component },
  { name: "health", get: (s: ComponentStatus) => s.health },
  { name: "version", get: (s: ComponentStatus) => s.version },
  { name: "latency", get: (s: ComponentStatus) => s.latencyMs === undefined ? "" : `${s.latencyMs.toFixed(1)} ms` },
  { name: "endpoint", get: (s: ComponentStatus) => s.endpoint },
  { name: "detail", get: (s: ComponentStatus) => s.detail },
];

/** One look at every component of the context, side by side. */
export async function statusOf(session: Session): Promise<ComponentStatus[]> {
  return await Promise.all(endpointsOf(session).map(([component]) => probe(session, component)));
}

/** The components of the context and where they are. */
export function endpointsOf(session: Session): [component: ComponentName, url: string][] {
  // A context may name more than every cluster has.
  const named = Object.keys(session.context.endpoints);
  // What governs hosts is not in every cluster: only a context that names it is asked about it.
  const usual = Object.keys(defaultPorts).filter((name) => name !== "deployer" && name !== "fleet-scheduler");
  const names = [...new Set([...usual, ...named])] as ComponentName[];
  return names.map((component) => [component, session.endpoint(component)]);
}

async function probe(session: Session, component: ComponentName): Promise<ComponentStatus> {
  const endpoint = session.endpoint(component);
  const start = performance.now();
  try {
    const signal = AbortSignal.any([session.io.signal, AbortSignal.timeout(2_000)]);
    const client = session.http;
    const init = { signal, ...(client === undefined ? {} : { client }) };
    const ready = await fetch(`${endpoint}/readyz`, init);
    const latencyMs = performance.now() - start;
    const body = await ready.text();
    const versionAnswer = await fetch(`${endpoint}/version`, init);
    const version = String((await versionAnswer.json()).version ?? "");
    const health = ready.ok ? "ready" : healthWord(body);
    const detail = ready.ok ? await storeDetail(session, component) : body.trim().replaceAll(/\s+/g, " ").slice(0, 160);
    return { component, health, version, latencyMs, endpoint, detail };
  } catch (error) {
    const detail = error instanceof Error && error.name === "TimeoutError"
      ? "no answer in 2 s"
      : "nothing listens there";
    return { component, health: "down", version: "", latencyMs: undefined, endpoint, detail };
  }
}

function healthWord(body: string): string {
  try {
    return String(JSON.parse(body).state ?? "not ready");
  } catch {
    return "not ready";
  }
}

/** Leader and lag of a store; empty when this context may not ask. */
async function storeDetail(session: Session, component: ComponentName): Promise<string> {
  if (session.context.operatorKeyFile === undefined) return "";
  try {
    if (component === "chainfire") {
      const { ClusterService } = await import("@ultracloud/proto/chainfire/v1");
      const status = await session.client(ClusterService, "chainfire").status({});
      return `leader ${status.leader}, revision ${status.header?.revision ?? 0}, lag ${
        status.raftIndex - status.appliedIndex
      }`;
    }
    if (component === "flaredb") {
      const { DatabaseService } = await import("@ultracloud/proto/flaredb/v1");
      const { groups } = await session.client(DatabaseService, "flaredb").status({});
      const lag = groups.reduce(
        (most, g) => g.commitIndex - g.appliedIndex > most ? g.commitIndex - g.appliedIndex : most,
        0n,
      );
      const leaderless = groups.filter((g) => g.leader === 0n).length;
      return `${groups.length} groups, ${leaderless} without leader, lag ${lag}`;
    }
  } catch (error) {
    return `cannot ask: ${error instanceof Error ? error.message : error}`;
  }
  return "";
}

export const status = command({
  brief: "Show every component: health, version, leader, lag; exit 8 when one is not ready",
  async run({ session, items }) {
    const all = await statusOf(session);
    await items(all.map((value) => ({ value, json: value, name: value.component })), statusColumns);
    const bad = all.filter((s) => s.health !== "ready");
    if (bad.length > 0) {
      throw fault(
        "unavailable",
        "components_not_ready",
        `Cannot call the cluster whole: ${bad.map((s) => `${s.component} is ${s.health}`).join(", ")}`,
      );
    }
  },
});

const findingColumns = [
  { name: "check", get: (f: Finding) => f.check },
  { name: "verdict", get: (f: Finding) => f.verdict },
  { name: "found", get: (f: Finding) => f.found },
  { name: "remedy", get: (f: Finding) => f.remedy },
];

export const doctor = command({
  brief: "Show what this host can do and the exact command for what is missing",
  async run({ items, io }) {
    const workRoot = io.env("ULTRACLOUD_WORK_ROOT") ?? `${Deno.cwd()}/work`;
    const report = await examineHost({ workRoot, ports: Object.values(defaultPorts) });
    await items(report.findings.map((value) => ({ value, json: value, name: value.check })), findingColumns);
    if (report.missingPackages.length > 0) {
      io.err(`run: ${report.installCommand}\n`);
      throw fault(
        "failed_precondition",
        "host_incomplete",
        `Cannot run VMs here yet: missing ${report.missingPackages.join(", ")}`,
      );
    }
  },
});

/** Component that serves a proto package. */
function componentOf(service: string): ComponentName {
  const part = /^ultracloud\.([a-z0-9]+)\.v\d+\./.exec(service)?.[1];
  // Packages have no hyphens, components have.
  const name = Object.keys(defaultPorts).find((name) => name.replaceAll("-", "") === part);
  if (name !== undefined) return name as ComponentName;
  throw fault(
    "invalid_argument",
    "unknown_service",
    `Cannot tell who serves ${service}: wanted ultracloud.<component>.v1.<Service>, or --component`,
  );
}

const packages: Readonly<Record<ComponentName, () => Promise<Record<string, unknown>>>> = {
  chainfire: () => import("@ultracloud/proto/chainfire/v1"),
  flaredb: () => import("@ultracloud/proto/flaredb/v1"),
  iam: () => import("@ultracloud/proto/iam/v1"),
  prismnet: () => import("@ultracloud/proto/prismnet/v1"),
  plasmavmc: () => import("@ultracloud/proto/plasmavmc/v1"),
  "vm-agent": () => import("@ultracloud/proto/vmagent/v1"),
  deployer: () => import("@ultracloud/proto/deployer/v1"),
  "fleet-scheduler": () => import("@ultracloud/proto/fleetscheduler/v1"),
};

export const api = buildRouteMap({
  docs: { brief: "Any RPC of any component" },
  routes: {
    call: command<{ component?: ComponentName }, [string, string?]>({
      brief: "Call Service/Method with a JSON request and print the JSON answer",
      details: "Example: uc api call ultracloud.iam.v1.OrgService/ListOrgs '{}'",
      args: [
        { brief: "package.Service/Method", placeholder: "method" },
        { brief: "Request as JSON; {} unless given, '-' for standard input", placeholder: "json", optional: true },
      ],
      flags: {
        component: {
          kind: "enum",
          values: Object.keys(defaultPorts),
          optional: true,
          brief: "Who is called, for shared services",
        },
      },
      async run({ session, io }, flags, target, given) {
        const [typeName, methodName, more] = target.split("/");
        if (!typeName || !methodName || more !== undefined) {
          throw fault(
            "invalid_argument",
            "bad_method",
            `Cannot read ${JSON.stringify(target)}: wanted package.Service/Method`,
          );
        }
        const component = flags.component ?? componentOf(typeName);
        const exported = typeName.startsWith("ultracloud.common.")
          ? await import("@ultracloud/proto/common/v1")
          : await packages[component]();
        const service = Object.values(exported).find((v) =>
          (v as { kind?: string; typeName?: string }).kind === "service" &&
          (v as { typeName?: string }).typeName === typeName
        ) as
          | import("@bufbuild/protobuf").DescService
          | undefined;
        if (!service) {
          const known = Object.values(exported as Record<string, { kind?: string; typeName?: string }>)
            .flatMap((v) => v?.kind === "service" ? v.typeName : []);
          throw fault(
            "not_found",
            "unknown_service",
            `Cannot find the service ${typeName}: ${component} has ${known.join(", ")}`,
          );
        }
        const method = service.methods.find((m) => m.name === methodName);
        if (!method) {
          throw fault(
            "not_found",
            "unknown_method",
            `Cannot find ${methodName} in ${typeName}: it has ${service.methods.map((m) => m.name).join(", ")}`,
          );
        }
        const body = given === "-" ? await new Response(Deno.stdin.readable).text() : given ?? "{}";
        let request;
        try {
          request = fromJson(method.input, JSON.parse(body) as JsonValue);
        } catch (cause) {
          throw fault(
            "invalid_argument",
            "bad_json",
            `Cannot use the request: ${cause instanceof Error ? cause.message : cause}`,
            { cause },
          );
        }
        if (method.methodKind !== "unary" && method.methodKind !== "server_streaming") {
          throw fault(
            "unimplemented",
            "client_stream",
            `Cannot call ${methodName} from here as it takes a stream of requests`,
          );
        }
        const client = session.client(service, component) as Record<string, (request: unknown) => unknown>;
        const result = client[method.localName]!(create(method.input, request as never));
        const print = (message: unknown) =>
          io.out(JSON.stringify(toJson(method.output, message as never), null, 2) + "\n");
        if (method.methodKind === "unary") return print(await result);
        for await (const message of result as AsyncIterable<unknown>) print(message);
      },
    }),
  },
});

export const version = command({
  brief: "Print the version",
  run({ io }) {
    io.out(`uc ${ucVersion} (deno ${Deno.version.deno})\n`);
    return Promise.resolve();
  },
});

const completionScripts: Readonly<Record<string, (program: string) => string>> = {
  bash: (program) =>
    `_uc_complete() {
  local IFS=$'\\n'
  COMPREPLY=( $(${program} __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) )
}
complete -o default -F _uc_complete uc
`,
  zsh: (program) =>
    `#compdef uc
_uc() {
  local -a found
  found=("\${(@f)$(${program} __complete -- "\${words[@]:1:$((CURRENT-1))}" 2>/dev/null)}")
  compadd -a found
}
compdef _uc uc
`,
  fish: (program) =>
    `complete -c uc -f -a '(${program} __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'\n`,
};

export const completion = command<Record<never, never>, [string]>({
  brief: "Print the completion script of a shell",
  details:
    "bash: source <(uc completion bash)    zsh: source <(uc completion zsh)    fish: uc completion fish | source",
  args: [{ brief: "bash, zsh or fish", placeholder: "shell" }],
  complete: () => Promise.resolve(Object.keys(completionScripts)),
  run({ io }, _flags, shell) {
    const script = Object.hasOwn(completionScripts, shell) ? completionScripts[shell] : undefined;
    if (!script) {
      throw fault(
        "invalid_argument",
        "unknown_shell",
        `Cannot complete in ${shell}: wanted ${Object.keys(completionScripts).join(", ")}`,
      );
    }
    io.out(script("uc"));
    return Promise.resolve();
  },
});
