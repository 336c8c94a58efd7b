import { Fault, fault } from "@ultracloud/base";
import { buildTinyImage } from "@ultracloud/cli";
import { checkOptions, commandHelp, laneHelp, logLines } from "./commands.ts";
import { openCluster, type SubstrateName, substrateNames } from "./harness/bring_up.ts";
import { cleanHome } from "./harness/clean.ts";
import { readClusterFile } from "./harness/cluster.ts";
import { judgeComponents } from "./harness/component_matrix.ts";
import { Faults } from "./harness/faults.ts";
import { type ClusterHome, clusterHome, lockHome } from "./harness/home.ts";
import { duplexOf, forward } from "./harness/forward.ts";
import { inside, type InsideOrder, webappSocket } from "./harness/inside.ts";
import { numberOption } from "./harness/lane.ts";
import { clusterStands, prepareHost, requireHost, runBesideNodes, runInside } from "./harness/outside.ts";
import { without } from "./harness/settings.ts";
import { runSuite, suites } from "./harness/suites.ts";
import { workRootBudget } from "./harness/work_root_budget.ts";
import { parseWords, type Words } from "./harness/words.ts";
import { bold, red, table } from "./harness/terminal.ts";
import { laneOf, lanes } from "./lanes/mod.ts";
import { page } from "./lanes/webapp.ts";

const profilesDir = new URL("./profiles", import.meta.url).pathname;

/** Changes of the cluster by hand, with what they take. */
const faultCommands: Readonly<Record<string, [usage: string, (faults: Faults, nodes: string[]) => Promise<void>]>> = {
  "partition": ["NODE ...", (faults, nodes) => faults.partition(nodes)],
  "cut": ["FROM TO", (faults, [from, to]) => faults.cutOneWay(from!, to!)],
  "fill-disk": ["NODE", (faults, [node]) => faults.fillDisk(node!)],
  "free-disk": ["NODE", (faults, [node]) => faults.freeDisk(node!)],
  "step-clock": ["NODE SECONDS", (faults, [node, seconds]) => faults.stepClock(node!, Number(seconds))],
};

/** Commands that speak to nodes from this very process. */
const handCommands: ReadonlySet<string> = new Set([
  ...["logs", "exec", "ssh", "kill", "start", "pause", "resume", "heal"],
  ...Object.keys(faultCommands),
]);

function help(): string {
  return [
    "deno task cluster COMMAND [--substrate netns|qemu] [--keep] [--NAME VALUE]",
    "",
    table(commandHelp.map(([left, right]) => [`  ${left}`, right!])),
    "",
    "Everything is below $ULTRACLOUD_WORK_ROOT (./work).",
  ].join("\n");
}

async function main(argv: readonly string[]): Promise<number> {
  const home = clusterHome((name) => Deno.env.get(name));
  if (argv[0] === "inside") return await inside(home, JSON.parse(argv[1]!) as InsideOrder);
  const words = parseWords(argv);
  const [command, ...rest] = words.plain;
  const lane = lanes.find(({ name }) => name === command || `fresh-${name}` === command);
  if (words.options.help !== undefined) {
    console.log(lane ? laneHelp(lane) : help());
    return 0;
  }
  if (command !== undefined && lane === undefined) checkOptions(command, words.options);
  if (command !== undefined && handCommands.has(command)) {
    const code = await runBesideNodes(home, argv);
    if (code !== undefined) return code;
  }
  switch (command) {
    case undefined:
    case "help":
      console.log(help());
      return command === undefined ? 2 : 0;
    case "list":
      console.log(table([...lanes, ...suites].map(({ name, summary }) => [bold(name), summary])));
      return 0;
    case "components":
      return await components(rest[0] ?? "ha-control-plane");
    case "work-root-budget":
      return await workRootBudget(home.workRoot, rest, words.options.apply !== undefined);
    case "logs":
      return await logs(home, rest);
    case "exec":
      return await onNode(home, rest[0], words.after);
    case "ssh":
      return await onNode(home, rest[0], ["/bin/sh"]);
  }
  requireHost();
  using _lock = await lockHome(home);
  switch (command) {
    case "up":
      return await up(home, rest[0] ?? "ha-control-plane", words);
    case "status":
    case "stop":
      return await runOrder(home, { command });
    case "clean": {
      const { processes, namespaces, mounts } = await cleanHome(home);
      console.log(`removed ${processes} processes, ${namespaces} namespaces, ${mounts} mounts and all data`);
      return 0;
    }
    case "serve-vm-webapp":
      return await serveWebapp(home, words);
    case "kill":
    case "start":
    case "pause":
    case "resume":
    case "heal":
      return await change(home, command, rest);
  }
  if (Object.hasOwn(faultCommands, command)) return await breakSomething(home, command, rest);
  const suite = suites.find(({ name }) => name === command);
  if (suite === undefined) return await runLaneCommand(home, command, words, home.workRoot);
  return await runSuite(
    suite,
    home.workRoot,
    substrateOf(words),
    (lane, root) => runLaneCommand(home, lane, words, root),
  );
}

/** The file of a profile of the lanes, or any other by its path. */
function clusterFileOf(profile: string): string {
  return profile.includes("/") ? profile : `${profilesDir}/${profile}.json`;
}

/** Says what a cluster file has of its profile; 1 when something required is missing. */
async function components(profile: string): Promise<number> {
  const file = await readClusterFile(clusterFileOf(profile));
  const { missing, optional } = judgeComponents(file);
  const nodes = Object.entries(file.nodes).map(([name, { role, components }]) => [name, role, components.join(", ")]);
  console.log(table([["NODE", "ROLE", "COMPONENTS"], ...nodes]));
  for (const [name, at] of Object.entries(optional)) console.log(`optional ${name}: ${at.join(", ")}`);
  for (const { component, where } of missing) console.log(red(`missing ${component}: ${where}`));
  console.log(missing.length === 0 ? `whole as ${file.profile}` : `${missing.length} missing of ${file.profile}`);
  return missing.length === 0 ? 0 : 1;
}

async function up(home: ClusterHome, profile: string, words: Words): Promise<number> {
  if (await clusterStands(home)) return await runOrder(home, { command: "start-all" });
  const clusterFile = clusterFileOf(profile);
  const substrate = substrateOf(words);
  await prepareHost(home, await readClusterFile(clusterFile), substrate, console.log);
  const code = await runOrder(home, { command: "up", clusterFile, substrate });
  if (code !== 0) await cleanHome(home);
  return code;
}

async function runLaneCommand(home: ClusterHome, name: string, words: Words, artifactsRoot: string): Promise<number> {
  const { lane, fresh } = laneOf(name);
  const { keep, substrate: _substrate, ...args } = words.options;
  checkOptions(lane.name, words.options, ["substrate", "keep", ...Object.keys(lane.options ?? {})]);
  await lane.prepare?.();
  const guestImage = lane.guestImage
    ? await buildTinyImage({ cacheDir: `${home.cacheDir}/images`, onProgress: console.log })
    : undefined;
  const running = !fresh && await clusterStands(home);
  const clusterFile = `${profilesDir}/${lane.profile}.json`;
  const substrate = substrateOf(words);
  if (!running) {
    const entries = lane.entries?.(args, substrate);
    const file = without(await readClusterFile(clusterFile), lane.leavesOut?.(args, substrate) ?? []);
    await prepareHost(home, file, substrate, console.log, entries);
  }
  try {
    const image = guestImage ? { guestImage: { path: guestImage.path, sha256: guestImage.sha256 } } : {};
    return await runOrder(home, {
      command: "lane",
      name,
      clusterFile,
      running,
      args,
      artifactsRoot,
      substrate,
      ...image,
    });
  } finally {
    if (!running && keep === undefined) await cleanHome(home);
  }
}

/** On the cluster that is up, or on a new one that goes with it. */
async function serveWebapp(home: ClusterHome, words: Words): Promise<number> {
  const port = numberOption(words.options, "port", 8080);
  const guestImage = await buildTinyImage({ cacheDir: `${home.cacheDir}/images`, onProgress: console.log });
  // Before anything is made: a port that is taken is told at once.
  const listener = Deno.listen({ hostname: "127.0.0.1", port });
  const end = new AbortController();
  const stood = await clusterStands(home);
  const forwarding = forward(
    listener,
    async () => duplexOf(await Deno.connect({ transport: "unix", path: webappSocket(home) })),
    end.signal,
  );
  try {
    const code = stood ? 0 : await up(home, "ha-control-plane", words);
    if (code !== 0) return code;
    console.log(bold(`http://127.0.0.1:${port}${page} as soon as the VM has booted`));
    const { path, sha256 } = guestImage;
    return await runOrder(home, { command: "serve", guestImage: { path, sha256 } });
  } finally {
    end.abort();
    await forwarding;
    if (!stood) await cleanHome(home);
  }
}

function substrateOf(words: Words): SubstrateName {
  const given = words.options.substrate ?? "netns";
  const found = substrateNames.find((name) => name === given);
  if (found) return found;
  throw fault("invalid_argument", "usage", `Cannot use the substrate ${given}: wanted ${substrateNames.join(" or ")}`);
}

async function runOrder(home: ClusterHome, order: Partial<InsideOrder>): Promise<number> {
  const whole = { substrate: "netns", name: "", clusterFile: "", running: true, args: {}, ...order };
  if (whole.command !== "lane" && whole.command !== "up") (await openCluster(home))[Symbol.dispose]();
  return await runInside(home, [JSON.stringify(whole)]);
}

async function change(home: ClusterHome, command: string, [node, component]: string[]): Promise<number> {
  using cluster = await openCluster(home);
  if (command === "heal") {
    for (const a of cluster.nodes) for (const b of cluster.nodes) if (a !== b) await new Faults(cluster).restore(a, b);
    return 0;
  }
  if (node === undefined) throw fault("invalid_argument", "usage", `Cannot ${command} nothing: wanted a node`);
  cluster.componentsOf(node);
  if (command === "kill" && component !== undefined) await cluster.kill(node, component);
  else if (command === "kill") await cluster.substrate.powerOff(node);
  else if (command === "pause") await cluster.substrate.pause(node);
  else if (command === "resume") await cluster.substrate.resume(node);
  else {
    await cluster.substrate.powerOn(node);
    for (const name of cluster.componentsOf(node)) await cluster.start(node, name);
  }
  return 0;
}

async function breakSomething(home: ClusterHome, command: string, nodes: string[]): Promise<number> {
  const [usage, work] = faultCommands[command]!;
  const least = usage.split(" ").filter((word) => word !== "...").length;
  if (nodes.length < least) throw fault("invalid_argument", "usage", `Cannot ${command}: wanted ${command} ${usage}`);
  using cluster = await openCluster(home);
  for (const node of command === "step-clock" ? nodes.slice(0, 1) : nodes) cluster.componentsOf(node);
  await work(new Faults(cluster), nodes);
  return 0;
}

async function logs(home: ClusterHome, [node, component]: string[]): Promise<number> {
  if (node === undefined) throw fault("invalid_argument", "usage", "Cannot show logs of nothing: wanted a node");
  using cluster = await openCluster(home);
  const names = component === undefined ? cluster.componentsOf(node) : [component];
  const consoleFile = cluster.substrate.consoleFile(node);
  for (const name of names) {
    const text = name === "console" && consoleFile !== undefined
      ? await Deno.readTextFile(consoleFile)
      : await cluster.substrate.readFile(node, cluster.logFile(node, name));
    console.log(bold(`${node} ${name}`));
    console.log(text.trimEnd().split("\n").slice(-logLines).join("\n"));
  }
  return 0;
}

/** A program on a node, on this terminal. */
async function onNode(home: ClusterHome, node: string | undefined, argv: readonly string[]): Promise<number> {
  if (node === undefined || argv.length === 0) {
    throw fault("invalid_argument", "usage", "Cannot run that: wanted exec NODE -- COMMAND");
  }
  using cluster = await openCluster(home);
  cluster.componentsOf(node);
  return await cluster.substrate.attach(node, argv);
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    console.error(`${red("error")}: ${error.message}`);
    Deno.exit(error.code === "usage" ? 2 : 1);
  }
}
