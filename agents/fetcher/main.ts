import { createAuthenticator, createAuthorizer, createWorkloadSigner, loadTrust, svcId } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import { readSecret } from "@ultracloud/config";
import { SqlService, WebhookDeliveryService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import { parseRange } from "./domain/addresses.ts";
import { fetchService } from "./fetch_service.ts";
import { Hook } from "./hook.ts";
import { post } from "./post.ts";
import { ProgressFile } from "./progress_file.ts";
import { TenantHooks } from "./tenant_hooks.ts";

const name = "fetcher";
const version = "0.1.0";
/** Shorter ones can be guessed from signed requests. */
const secretCharsMin = 16;

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack, clock, registry, signal } = boot;
  const { clusterId, identityKeyFile: keyFile } = config;
  const { tls } = config.rpc;
  const trust = await loadTrust(config.trustFile, { clock });
  const signer = await createWorkloadSigner({ clusterId, name, keyFile }, {
    clock,
  });
  const flaredb = { endpoints: config.peers.flaredb, authorization: signer.authorization("flaredb"), tls };
  const client = stack.use(createRpcClient(SqlService, flaredb));
  const deliveries = registry.counter(
    "fetcher_deliveries_total",
    "Requests to receivers of hooks",
    ["hook", "outcome"],
  );
  const privateRanges = config.privateRanges.map((range) => parseRange(range)!);
  const resolve = (host: string, ends: AbortSignal) => Deno.resolveDns(host, "A", { signal: ends });
  for (
    const { name: hookName, database, tables, url, secretFile, caFile } of config.hooks
  ) {
    const secret = (await readSecret(secretFile)).expose();
    if (secret.length < secretCharsMin) {
      const message =
        `Cannot use secret ${secretFile} of ${secret.length} characters: wanted at least ${secretCharsMin}`;
      throw fault("invalid_argument", "secret_short", message);
    }
    const caCerts = caFile === undefined ? [] : [await Deno.readTextFile(caFile)];
    const { requestMsMax: timeoutMs, giveUpMs } = config;
    const hook = new Hook({
      name: hookName,
      database,
      tables,
      secret,
      giveUpMs,
    }, {
      ...boot,
      client,
      deliveries,
      progress: new ProgressFile(`${config.stateDir}/${hookName}.index`),
      post: (body, headers, ends) =>
        post(
          {
            url: new URL(url),
            headers,
            body,
            privateRanges,
            caCerts,
            timeoutMs,
          },
          { resolve },
          ends,
        ),
    });
    const running = hook.run(signal);
    stack.defer(() => running);
  }
  if (config.tenants.enabled) {
    const { caFile, ...tenants } = config.tenants;
    const hooks = new TenantHooks({
      ...tenants,
      privateRanges: tenants.privateRanges.map((range) => parseRange(range)!),
      deniedRanges: tenants.deniedRanges.map((range) => parseRange(range)!),
      caCerts: caFile === undefined ? [] : [await Deno.readTextFile(caFile)],
      requestMsMax: config.requestMsMax,
      giveUpMs: config.giveUpMs,
    }, {
      ...boot,
      resolve,
      sql: client,
      webhooks: stack.use(createRpcClient(WebhookDeliveryService, flaredb)),
      deliveries,
    });
    const running = hooks.run(signal);
    stack.defer(() => running);
  }
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [fetchService({ privateRanges, silenceMsMax: config.fetchSilenceMsMax }, { resolve })],
      authenticator: createAuthenticator({ audience: svcId(clusterId, name) }, {
        trust,
        clock,
      }),
      authorizer: createAuthorizer({ trust, clock }),
    }),
  );
});
