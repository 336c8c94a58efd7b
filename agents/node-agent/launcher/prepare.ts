import type { LaunchSpec } from "../domain/files.ts";

/** What to run, checked against this host. */
export interface Prepared {
  readonly program: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

function kindOf(path: string): "file" | "directory" | "other" | undefined {
  try {
    const { isFile, isDirectory } = Deno.statSync(path);
    return isFile ? "file" : isDirectory ? "directory" : "other";
  } catch {
    return undefined;
  }
}

/**
 * Checks that everything the instance was promised is there and copies its secrets into its own directory; throws an
 * Error whose message says what is missing.
 */
export function prepare(spec: LaunchSpec, dir: string): Prepared {
  const { template } = spec;
  if (template.closure !== undefined && kindOf(template.closure) !== "directory") {
    throw new Error(`closure ${template.closure} is not on this host`);
  }
  for (const { path, readOnly } of template.volumes) {
    if (kindOf(path) !== "directory") throw new Error(`volume ${path} is not a directory of this host`);
    if (!readOnly) checkWritable(path);
  }
  const credentials = `${dir}/credentials`;
  Deno.mkdirSync(credentials, { recursive: true, mode: 0o700 });
  for (const { name, file } of template.secrets) {
    if (kindOf(file) !== "file") throw new Error(`secret ${name} is missing: ${file} is not a file of this host`);
    Deno.writeFileSync(`${credentials}/${name}`, Deno.readFileSync(file), { mode: 0o400 });
  }
  const [program, ...args] = template.closure !== undefined
    ? [`${template.closure}/${template.program}`, ...template.args]
    : [...template.command!, ...template.args];
  if (program!.includes("/") && kindOf(program!) !== "file") throw new Error(`program ${program} is not on this host`);
  const ports = Object.entries(template.ports).map(([name, { port }]) => [variable("PORT", name), String(port)]);
  return {
    program: program!,
    args,
    env: {
      PATH: "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      ...Object.fromEntries(ports),
      ...template.env,
      // As systemd names it: a program finds its secrets the same way under either.
      CREDENTIALS_DIRECTORY: credentials,
      UC_INSTANCE: spec.id,
      UC_SERVICE: spec.service,
      UC_REVISION: spec.revision,
      UC_NODE: spec.node,
    },
  };
}

function variable(prefix: string, name: string): string {
  return `${prefix}_${name.toUpperCase().replaceAll("-", "_")}`;
}

function checkWritable(path: string): void {
  const probe = `${path}/.ultracloud-${crypto.randomUUID()}`;
  try {
    Deno.writeTextFileSync(probe, "");
    Deno.removeSync(probe);
  } catch (cause) {
    throw new Error(`volume ${path} cannot be written`, { cause });
  }
}

/** Secrets do not outlive the process they were for. */
export function forgetSecrets(dir: string): void {
  try {
    Deno.removeSync(`${dir}/credentials`, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
