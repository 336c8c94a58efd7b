import { baseShape } from "@ultracloud/config";
import { z } from "zod";
import { runComponent, startRpcServer } from "../mod.ts";

await runComponent(
  { name: "sample", version: "9.9.9", schema: z.strictObject({ ...baseShape, failWith: z.string().optional() }) },
  async (boot) => {
    if (boot.config.failWith !== undefined) throw new Error(boot.config.failWith);
    boot.stack.defer(() => boot.log.info("disposed"));
    const server = await startRpcServer({ name: "sample", version: boot.version, listen: boot.config.rpc.listen }, {
      ...boot,
      services: [],
      authenticator: { authenticate: () => ({ kind: "anonymous", id: "anonymous" }) },
      authorizer: { authorize: () => ({ allow: true }) },
    });
    boot.stack.use(server);
    boot.log.info("listening", { url: server.url });
  },
);
