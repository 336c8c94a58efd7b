/// <reference lib="webworker" />
import { backup, DatabaseSync } from "node:sqlite";

// node:sqlite's backup blocks its event loop from begin to end, so it has one of its own.
const scope = self as unknown as DedicatedWorkerGlobalScope;
scope.onmessage = async ({ data: { from, to } }: MessageEvent<{ from: string; to: string }>) => {
  try {
    const source = new DatabaseSync(from, { readOnly: true });
    try {
      const pages = await backup(source, to);
      scope.postMessage({ pages });
    } finally {
      source.close();
    }
  } catch (error) {
    scope.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
};
