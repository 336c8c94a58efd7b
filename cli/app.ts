import { type Application, buildApplication, buildRouteMap, type Command, type RouteMap, text_en } from "@stricli/core";
import { command } from "./frame/command.ts";
import { exitCodes } from "./frame/exit_codes.ts";
import type { UcContext } from "./frame/io.ts";
import { version } from "./version.ts";

type Target = Command<UcContext> | RouteMap<UcContext>;

/** Every noun with where it lives: only what a call names is loaded, which keeps the start under 150 ms. */
const nouns: Readonly<Record<string, { readonly brief: string; readonly load: () => Promise<Target> }>> = {
  quickstart: {
    brief: "Start a whole cloud on this machine and boot a VM in it",
    load: async () => (await import("./commands/quickstart.ts")).quickstart,
  },
  status: { brief: "Health of every component", load: async () => (await import("./commands/system.ts")).status },
  top: {
    brief: "What each component uses and serves right now",
    load: async () => (await import("./commands/top.ts")).top,
  },
  doctor: { brief: "What this host can do", load: async () => (await import("./commands/system.ts")).doctor },
  login: { brief: "Log in", load: async () => (await import("./commands/access.ts")).login },
  logout: { brief: "Forget the credentials", load: async () => (await import("./commands/access.ts")).logout },
  whoami: { brief: "Who you are", load: async () => (await import("./commands/access.ts")).whoami },
  context: {
    brief: "Clusters and projects to work in",
    load: async () => (await import("./commands/access.ts")).context,
  },
  org: { brief: "Organisations", load: async () => (await import("./commands/iam_orgs.ts")).org },
  project: { brief: "Projects", load: async () => (await import("./commands/iam_orgs.ts")).project },
  user: { brief: "Users", load: async () => (await import("./commands/iam_users.ts")).user },
  "service-account": {
    brief: "Service accounts and their keys",
    load: async () => (await import("./commands/iam_accounts.ts")).serviceAccount,
  },
  role: { brief: "Roles", load: async () => (await import("./commands/iam_roles.ts")).role },
  iam: {
    brief: "Keys, certificates, groups, boundaries, programs, federations and the audit trail of iam",
    load: async () => (await import("./commands/iam.ts")).iam,
  },
  binding: { brief: "Who has which role where", load: async () => (await import("./commands/iam_roles.ts")).binding },
  network: { brief: "Tenant networks", load: async () => (await import("./commands/network.ts")).network },
  subnet: { brief: "Subnets", load: async () => (await import("./commands/network.ts")).subnet },
  port: { brief: "Network ports", load: async () => (await import("./commands/network.ts")).port },
  sg: { brief: "Security groups", load: async () => (await import("./commands/network_groups.ts")).sg },
  net: {
    brief: "What the network does with a flow, and what passed",
    load: async () => (await import("./commands/network_insight.ts")).net,
  },
  acl: { brief: "Network ACLs", load: async () => (await import("./commands/network_edge.ts")).acl },
  router: { brief: "Route tables", load: async () => (await import("./commands/network_edge.ts")).router },
  nat: { brief: "NAT gateways", load: async () => (await import("./commands/network_outside.ts")).nat },
  ip: { brief: "Floating IPs and address pools", load: async () => (await import("./commands/network_outside.ts")).ip },
  peering: {
    brief: "Networks that reach each other",
    load: async () => (await import("./commands/network_edge.ts")).peering,
  },
  vm: { brief: "Virtual machines", load: async () => (await import("./commands/compute.ts")).vm },
  image: { brief: "VM images", load: async () => (await import("./commands/compute_image.ts")).image },
  flavor: { brief: "VM sizes", load: async () => (await import("./commands/compute_catalog.ts")).flavor },
  volume: { brief: "Volumes", load: async () => (await import("./commands/compute_volume.ts")).volume },
  sshkey: { brief: "SSH keys", load: async () => (await import("./commands/compute_catalog.ts")).sshkey },
  group: { brief: "Placement groups", load: async () => (await import("./commands/compute_catalog.ts")).group },
  deployer: {
    brief: "Enrolment of machines, and what each node should become",
    load: async () => (await import("./commands/deployer.ts")).deployer,
  },
  rollout: {
    brief: "Changes of systems as they go over nodes",
    load: async () => (await import("./commands/rollout.ts")).rollout,
  },
  node: {
    brief: "Workers and the machines of nodes",
    load: async () => (await import("./commands/compute_node.ts")).node,
  },
  keys: {
    brief: "Private keys of a cluster's components, made before it first runs",
    load: async () => (await import("./commands/keys.ts")).keys,
  },
  operation: { brief: "Long work", load: async () => (await import("./commands/compute_operation.ts")).operation },
  event: { brief: "Changes as they happen", load: async () => (await import("./commands/compute_operation.ts")).event },
  fleet: {
    brief: "Services of the hosts and the nodes that run them",
    load: async () => (await import("./commands/fleet.ts")).fleet,
  },
  cluster: {
    brief: "The coordination store: members, health, backups",
    load: async () => (await import("./commands/cluster.ts")).cluster,
  },
  kv: { brief: "Keys of the coordination store", load: async () => (await import("./commands/kv.ts")).kv },
  db: { brief: "Databases", load: async () => (await import("./commands/db.ts")).db },
  sql: { brief: "SQL on a database, or a shell", load: async () => (await import("./commands/sql.ts")).sql },
  api: { brief: "Any RPC of any component", load: async () => (await import("./commands/system.ts")).api },
  completion: {
    brief: "Completion script of a shell",
    load: async () => (await import("./commands/system.ts")).completion,
  },
  version: { brief: "Print the version", load: async () => (await import("./commands/system.ts")).version },
};

/** Stands for a noun that this call does not name, so that help and suggestions know it. */
const standIn = (brief: string) => command({ brief, run: () => Promise.resolve() });

/** Every command as its words: `vm list`. For what holds documentation against the program. */
export async function commandPaths(): Promise<string[]> {
  const below = (path: string, target: Target): string[] =>
    "getAllEntries" in target
      ? target.getAllEntries().flatMap(({ name, target, aliases }) =>
        [name["convert-camel-to-kebab"], ...aliases].flatMap((word) => below(`${path} ${word}`, target as Target))
      )
      : [path];
  const all = await Promise.all(Object.entries(nouns).map(async ([noun, { load }]) => below(noun, await load())));
  return all.flat();
}

/** The application for one call; `words` is the command line after `uc`. */
export async function buildUc(words: readonly string[]): Promise<Application<UcContext>> {
  const named = words.find((word) => !word.startsWith("-"));
  const routes: Record<string, Target> = {};
  for (const [noun, { brief, load }] of Object.entries(nouns)) {
    routes[noun] = noun === named || noun.replaceAll("-", "") === named?.replaceAll("-", "")
      ? await load()
      : standIn(brief);
  }
  const map = buildRouteMap<string, UcContext>({
    routes,
    docs: { brief: "The command line of UltraCloud", fullDescription },
  });
  const root = {
    ...map,
    // One line instead of one for every noun, which COMMANDS lists anyway.
    formatHelp: (args: Parameters<typeof map.formatHelp>[0]) =>
      map.formatHelp(args).replace(/(USAGE.*\n)[^]*?\n\n/, `$1${usageLines}\n\n`),
  };
  return buildApplication(root, {
    name: "uc",
    versionInfo: { currentVersion: version },
    scanner: { caseStyle: "allow-kebab-for-camel", allowArgumentEscapeSequence: true },
    documentation: { caseStyle: "convert-camel-to-kebab", useAliasInUsageLine: false },
    determineExitCode: () => exitCodes.failed,
    localization: { loadText: () => text },
  });
}

const usageLines = ["uc <command> [<arguments>] [flags]", "uc <command> --help", "uc --version"]
  .map((line) => `  ${line}`).join("\n");

const fullDescription = `The command line of UltraCloud. \`uc quickstart\` starts a cloud to try it on.

Results go to standard output, everything else to standard error. Exit codes: ${
  Object.entries(exitCodes).map(([name, code]) => `${code} ${name.replace(/[A-Z]/g, (c) => ` ${c.toLowerCase()}`)}`)
    .join(", ")
}.`;

/** Failures of the parser in the form that all failures have. */
const usageFailure = (message: string) => `error[usage]: ${message}\nhint: the same with --help shows what is wanted`;
const text: typeof text_en = {
  ...text_en,
  noCommandRegisteredForInput: (args) => usageFailure(text_en.noCommandRegisteredForInput(args)),
  exceptionWhileParsingArguments: (error, ansiColor) =>
    usageFailure(text_en.exceptionWhileParsingArguments(error, ansiColor)),
};

export const nounNames = Object.keys(nouns);
