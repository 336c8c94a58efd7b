import { fault } from "@ultracloud/base";
import { freePort, loadFleet, prepareStack } from "@ultracloud/launch";
import { type Command, parseFlags } from "./_command.ts";
import type { Fleet } from "./_fleet_table.ts";
import { dim, green, red } from "./_term.ts";
import { workRoot } from "./_workspace.ts";

/** The component and everybody it calls, directly or not. */
export function withCallees(fleet: Fleet, name: string): string[] {
  const found = new Set<string>();
  const visit = (component: string) => {
    if (found.has(component)) return;
    found.add(component);
    for (const callee of fleet.get(component)?.manifest.calls ?? []) visit(callee.split(".")[0] ?? "");
  };
  visit(name);
  return [...found].sort();
}

/** A port for each listener of `names`: the manifest's own, or any free one. */
export function portsFor(fleet: Fleet, names: readonly string[], own: boolean): Record<string, number> {
  const ports: Record<string, number> = {};
  for (const name of names) {
    for (const [listener, { port }] of Object.entries(fleet.get(name)?.manifest.listen ?? {})) {
      ports[`${name}.${listener}`] = own ? port : freePort();
    }
  }
  return ports;
}

/** Runs one component with what it needs, under the pinned permissions, until Ctrl-C. */
export const runCommand: Command = {
  name: "run",
  help: `deno task dev <component> [--alone] [--free-ports]

Starts the component and everybody it calls on loopback, each under the permissions of its component.json, with its
data in work/dev/<component>. Ends them all on Ctrl-C; the data stays.

  --alone        start this one only; it says \`starting\` until its callees are there
  --free-ports   use free ports instead of those of the manifests`,
  handlesSignals: true,
  async run(args, root) {
    const { values, positionals } = parseFlags({
      args: [...args],
      allowPositionals: true,
      options: { alone: { type: "boolean", default: false }, "free-ports": { type: "boolean", default: false } },
    });
    const fleet = await loadFleet(root);
    const [name] = positionals;
    if (name === undefined || !fleet.has(name) || positionals.length > 1) {
      const known = [...fleet.keys()].join(", ");
      throw fault(
        "invalid_argument",
        "usage",
        `Cannot run ${positionals.join(" ") || "nothing"}: wanted one of ${known}`,
      );
    }
    const names = withCallees(fleet, name);
    const started = values.alone === true ? [name] : names;
    const ended = Promise.withResolvers<void>();
    const interrupt = new AbortController();
    const onSignal = () => {
      interrupt.abort(new Error("stopped"));
      ended.resolve();
    };
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, onSignal);
    await using stack = await prepareStack({
      root,
      dataDir: `${workRoot(root)}/dev/${name}`,
      components: names,
      ports: portsFor(fleet, names, values["free-ports"] !== true),
      clusterId: "dev",
    });
    const start = performance.now();
    for (const component of started) {
      const process = stack.start(component);
      void process.ended.then(({ code }) => {
        if (interrupt.signal.aborted) return;
        console.log(`${red("ended")} ${component} with ${code}; see ${process.logFile}`);
        if (component === name) ended.resolve();
      });
      console.log(`${green("started")} ${component} ${dim(`${stack.endpoint(component)}  ${process.logFile}`)}`);
    }
    console.log(dim(`up after ${Math.round(performance.now() - start)} ms; Ctrl-C ends it`));
    await ended.promise;
    return interrupt.signal.aborted ? 0 : 1;
  },
};
