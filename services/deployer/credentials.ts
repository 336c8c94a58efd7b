import { fault } from "@ultracloud/base";

/** A trust file of a thousand principals is below this. */
const fileBytesMax = 256 * 1024;
const filesMax = 32;
/** `trust.json`, `nix-agent/tls.crt`: no step upwards, nothing hidden. */
const namePattern = /^[a-z0-9][a-z0-9-]*(\.[a-z0-9]+)?$/;

/** Files that an operator has prepared for the agents of a node, by their path below the node's directory. */
export type CredentialFiles = Readonly<Record<string, string>>;

/** Reads what lies in `dir/node` and one directory below it. A node without a directory is refused. */
export async function readCredentials(dir: string | undefined, node: string): Promise<CredentialFiles> {
  const missing = (why: string) =>
    fault("failed_precondition", "credentials_missing", `Cannot give ${node} its credentials: ${why}`);
  if (dir === undefined) throw missing("this deployer has none to give, wanted nodeCredentialsDir");
  const files: Record<string, string> = {};
  const read = async (below: string) => {
    for await (const { name, isFile, isDirectory } of Deno.readDir(`${dir}/${node}/${below}`)) {
      if (!namePattern.test(name)) continue;
      if (isDirectory && below === "") await read(`${name}/`);
      if (!isFile) continue;
      if (Object.keys(files).length >= filesMax) throw missing(`there are more than ${filesMax} files`);
      const path = `${dir}/${node}/${below}${name}`;
      if ((await Deno.stat(path)).size > fileBytesMax) throw missing(`${below}${name} is above ${fileBytesMax} bytes`);
      files[`${below}${name}`] = await Deno.readTextFile(path);
    }
  };
  try {
    await read("");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw missing("nobody has prepared them");
    throw error;
  }
  return files;
}
