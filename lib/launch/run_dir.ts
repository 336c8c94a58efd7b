import { fault } from "@ultracloud/base";

/**
 * Makes the run directory. Its name can be guessed and it may lie where everybody makes directories: whoever was there
 * first would own the monitors of all guests.
 */
export async function makeRunDir(dir: string): Promise<void> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const { isDirectory, uid } = await Deno.lstat(dir);
  if (!isDirectory || uid !== Deno.uid()) {
    throw fault(
      "failed_precondition",
      "directory_foreign",
      `Cannot use ${dir}: wanted a directory, no link, that belongs to user ${Deno.uid()}`,
    );
  }
  await Deno.chmod(dir, 0o700);
}
