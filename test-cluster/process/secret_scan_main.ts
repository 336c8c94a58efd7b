/**
 * `deno task secrets [DIR...]`: fails when a log below the directories holds a secret that is kept below one of them,
 * or anything that looks like one. Without a directory: what test runs and lanes have left in the work root.
 */
import { secretsInLogs, workspaceRoot } from "@ultracloud/testing";

const workRoot = Deno.env.get("ULTRACLOUD_WORK_ROOT") ?? `${workspaceRoot}/work`;

/** The output of the last test run, and the artifacts of the last run of each lane. */
async function leftBehind(): Promise<string[]> {
  const dirs = [`${workRoot}/test`];
  for await (const { name, isDirectory } of Deno.readDir(workRoot)) {
    const latest = `${workRoot}/${name}/latest`;
    if (isDirectory && await Deno.stat(latest).catch(() => undefined)) dirs.push(await Deno.realPath(latest));
  }
  return dirs;
}

const dirs = Deno.args.length > 0 ? Deno.args : await leftBehind();
let bytes = 0;
const found: string[] = [];
for (const dir of dirs) {
  const seen = await secretsInLogs(dir, dirs);
  bytes += seen.bytes;
  // Files that are there to hold one.
  const wrong = seen.found.filter((line) => !/\.(key|token) holds /.test(line));
  found.push(...wrong);
  console.log(`${dir}: ${seen.bytes} bytes, ${wrong.length} secrets`);
}
for (const line of found) console.log(`found: ${line}`);
if (bytes === 0) console.log("Cannot call it clean: there was nothing to look at");
console.log(`${bytes} bytes looked at, ${found.length} secrets found`);
Deno.exit(found.length === 0 && bytes > 0 ? 0 : 1);
