import { fault } from "@ultracloud/base";

/**
 * What the worker runs, as a text: a component may not read its own source, which a worker's file would be. Backup of
 * node:sqlite blocks its event loop from begin to end, so it has one of its own.
 */
const workerSource = `
  import { backup, DatabaseSync } from "node:sqlite";
  self.onmessage = async ({ data: { from, to } }) => {
    try {
      const source = new DatabaseSync(from, { readOnly: true });
      try {
        self.postMessage({ pages: await backup(source, to) });
      } finally {
        source.close();
      }
    } catch (error) {
      self.postMessage({ error: error instanceof Error ? error.message : String(error) });
    }
  };
`;

/**
 * Copies the database file at `from` to `to` while others read and write it: the copy is one consistent moment. Runs in
 * a worker, so the event loop goes on. `to` appears whole or not at all. Answers the number of pages.
 */
export async function backupDatabase(from: string, to: string): Promise<number> {
  const url = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const next = `${to}.new`;
  try {
    const answer = await new Promise<{ pages?: number; error?: string }>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
      worker.postMessage({ from, to: next });
    });
    if (answer.pages === undefined) throw new Error(answer.error);
    await Deno.rename(next, to);
    return answer.pages;
  } catch (cause) {
    await Deno.remove(next).catch(() => {});
    throw fault(
      "unavailable",
      "backup_failed",
      `Cannot back up the database ${from}: ${cause instanceof Error ? cause.message : cause}`,
      { cause },
    );
  } finally {
    worker.terminate();
    URL.revokeObjectURL(url);
  }
}
