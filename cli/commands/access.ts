import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { command, text } from "../frame/command.ts";
import { deviceLogin } from "./_device_login.ts";
import { endLogin } from "./_logout.ts";
import { secretFrom } from "./_secrets.ts";
import { type Context, contextPath } from "../frame/contexts.ts";

type Named = { name: string; current: boolean; context: Context };
const columns = [
  { name: "current", get: (c: Named) => c.current ? "*" : "" },
  { name: "name", get: (c: Named) => c.name },
  { name: "endpoint", get: (c: Named) => c.context.endpoints.iam ?? c.context.endpoint },
  { name: "project", get: (c: Named) => c.context.project ?? "" },
];
const optional = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;
/** A context is used from any folder. */
const absolute = (path: string) => path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;

/** The files that mtls-agent keeps in a directory; a fault when one is missing. */
function tlsFilesIn(given: string) {
  const dir = absolute(given);
  const files = { certFile: `${dir}/tls.crt`, keyFile: `${dir}/tls.key`, caFile: `${dir}/ca.crt` };
  for (const path of Object.values(files)) Deno.statSync(path);
  return files;
}

const contextArg = [{ brief: "Context", placeholder: "name" }] as const;
const item = (value: Named) => ({
  value,
  json: { name: value.name, current: value.current, ...value.context },
  name: value.name,
});

export const context = buildRouteMap({
  docs: { brief: "Clusters and projects to work in" },
  routes: {
    list: command({
      brief: "List contexts",
      async run({ session, items, io }) {
        const { contexts, current } = session.file;
        const list = Object.entries(contexts).map(([name, context]) =>
          item({ name, current: name === current, context })
        );
        if (list.length === 0) {
          return io.err(
            `No contexts yet in ${contextPath(io.env)}: \`uc context set NAME --endpoint URL\` makes one\n`,
          );
        }
        await items(list, columns);
      },
    }),
    show: command({
      brief: "Show the context in use",
      async run({ session, items }) {
        await items([item({ name: session.contextName, current: true, context: session.context })], columns, true);
      },
    }),
    set: command<{ endpoint?: string; tlsDir?: string; operatorKeyFile?: string; clusterId?: string }, [string?]>({
      brief: "Create or change a context; --project sets its project",
      args: [{ brief: "Context; the current one unless given", placeholder: "name", optional: true }],
      flags: {
        endpoint: { kind: "parsed", parse: text, optional: true, brief: "http://host or https://host of the cluster" },
        tlsDir: optional("Directory with tls.crt, tls.key and ca.crt, where the cluster asks for a certificate"),
        operatorKeyFile: optional("Private key of the operator, who may call the stores; with --cluster-id"),
        clusterId: optional("Name of the cluster: the trust domain of its identities"),
      },
      async run({ session, items, flags: common }, flags, given) {
        const name = given ?? session.contextName;
        if (flags.endpoint !== undefined && !URL.canParse(flags.endpoint)) {
          throw fault(
            "invalid_argument",
            "invalid_endpoint",
            `Cannot use ${JSON.stringify(flags.endpoint)} as an endpoint: wanted http://host`,
          );
        }
        session.edit((file) => {
          const old = file.contexts[name] ?? { endpoint: "http://127.0.0.1", endpoints: {} };
          file.contexts[name] = {
            ...old,
            ...(flags.endpoint ? { endpoint: flags.endpoint, endpoints: {} } : {}),
            ...(common.project ? { project: common.project } : {}),
            ...(flags.tlsDir ? { tls: tlsFilesIn(flags.tlsDir) } : {}),
            ...(flags.operatorKeyFile ? { operatorKeyFile: absolute(flags.operatorKeyFile) } : {}),
            ...(flags.clusterId ? { clusterId: flags.clusterId } : {}),
          };
          file.current ??= name;
        });
        await items(
          [item({ name, current: session.file.current === name, context: session.file.contexts[name]! })],
          columns,
          true,
        );
      },
    }),
    use: command<Record<never, never>, [string]>({
      brief: "Make a context the current one",
      args: contextArg,
      complete: (session) => Promise.resolve(Object.keys(session.file.contexts)),
      run({ session, io }, _flags, name) {
        if (!session.file.contexts[name]) {
          throw fault("not_found", "context_not_found", `Cannot find the context ${name}`);
        }
        session.edit((file) => file.current = name);
        io.err(`Using context ${name}\n`);
        return Promise.resolve();
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Forget a context and its credentials",
      args: contextArg,
      complete: (session) => Promise.resolve(Object.keys(session.file.contexts)),
      run({ session, confirm, io }, _flags, name) {
        if (!session.file.contexts[name]) {
          throw fault("not_found", "context_not_found", `Cannot find the context ${name}`);
        }
        confirm(`Forget the context ${name}?`);
        session.edit((file) => {
          delete file.contexts[name];
          delete file.credentials[name];
          if (file.current === name) delete file.current;
        });
        io.err(`Forgot context ${name}\n`);
        return Promise.resolve();
      },
    }),
  },
});

interface LoginFlags {
  org?: string;
  user?: string;
  passwordFile?: string;
  keyId?: string;
  secretFile?: string;
  tokenFile?: string;
  adminTokenFile?: string;
}

export const login = command<LoginFlags, []>({
  brief: "Log in through a browser, or with a token, a password, a key or the cluster's admin token",
  details:
    "Without a flag: open the printed address in any browser, on any device, and log in there. Secrets come from files, '-' for standard input, or the terminal; never from arguments, which other users could read.",
  flags: {
    tokenFile: optional("File with an access token"),
    adminTokenFile: optional("File with the cluster's admin token"),
    org: optional("Organisation of the user"),
    user: optional("User, with --org"),
    passwordFile: optional("File with the password; asked for unless given"),
    keyId: optional("Key of a service account"),
    secretFile: optional("File with the key's secret"),
  },
  async run({ session, io }, flags) {
    const tokens = session.anonymousClient(TokenService, "iam");
    const ways = [flags.tokenFile, flags.adminTokenFile, flags.user, flags.keyId].filter((way) =>
      way !== undefined
    ).length;
    if (ways > 1) {
      throw fault(
        "invalid_argument",
        "login_how",
        "Cannot log in: wanted at most one of --token-file, --admin-token-file, --user with --org, --key-id",
      );
    }
    // What belongs to another way is a mistake: who names an organisation expects it to matter.
    const strays = [
      flags.user === undefined && flags.org !== undefined && "--org without --user",
      flags.user === undefined && flags.passwordFile !== undefined && "--password-file without --user",
      flags.keyId === undefined && flags.secretFile !== undefined && "--secret-file without --key-id",
    ].filter((stray) => stray !== false);
    if (strays.length > 0) {
      throw fault("invalid_argument", "login_how", `Cannot log in with ${strays.join(" and ")}`);
    }
    if (ways === 0) {
      session.saveCredentials(
        await deviceLogin({
          endpoint: session.endpoint("iam"),
          http: session.http,
          signal: io.signal,
          show: (uri, code) => io.err(`Open ${uri} in a browser and check that it shows the code ${code}\n`),
        }),
      );
    } else if (flags.tokenFile !== undefined) {
      const accessToken = (await secretFrom(io, flags.tokenFile, "Token")).trim();
      session.saveCredentials({
        accessToken,
        refreshToken: "",
        expiresInMs: BigInt(expiryOf(accessToken) - Date.now()),
      });
    } else if (flags.adminTokenFile !== undefined) {
      session.saveCredentials(
        await tokens.bootstrapToken({
          adminToken: (await secretFrom(io, flags.adminTokenFile, "Admin token")).trim(),
        }),
      );
    } else if (flags.keyId !== undefined) {
      const secret = (await secretFrom(io, flags.secretFile, "Secret")).trim();
      session.saveCredentials(await tokens.exchangeApiKey({ keyId: flags.keyId, secret }));
    } else {
      if (flags.org === undefined) {
        throw fault(
          "invalid_argument",
          "login_how",
          "Cannot log in as a user: wanted --org",
        );
      }
      const password = await secretFrom(io, flags.passwordFile, "Password");
      // Known to the cluster from then on: strangers who guess passwords cannot lock this device out.
      const deviceToken = session.file.devices?.[session.contextName] ?? "";
      const answer = await tokens.login({ org: flags.org, user: flags.user!, password, deviceToken });
      session.saveCredentials(answer);
      session.edit((file) => void ((file.devices ??= {})[session.contextName] = answer.deviceToken));
    }
    const who = await session.client(TokenService, "iam").whoAmI({});
    io.err(`Logged in to ${session.contextName} as ${who.displayName || who.principal}\n`);
  },
});

function expiryOf(token: string): number {
  try {
    const payload = JSON.parse(atob(token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/")));
    if (typeof payload.exp === "number") return payload.exp * 1000;
  } catch {
    // fall through to the sentence below
  }
  throw fault("invalid_argument", "invalid_token", "Cannot read the token: wanted a JWT with an expiry");
}

export const logout = command({
  brief: "End the login of the context, at iam too, and forget its credentials",
  async run({ session, io }) {
    const held = session.file.credentials[session.contextName];
    session.edit((file) => void delete file.credentials[session.contextName]);
    const ended = held === undefined || await endLogin(session, held);
    io.err(`Logged out of ${session.contextName}\n`);
    if (!ended) io.err("warning: iam could not be reached: the tokens that were here are good until they expire\n");
  },
});

export const whoami = command({
  brief: "Show who you are and your roles",
  async run({ session, items }) {
    const who = await session.client(TokenService, "iam").whoAmI({});
    const value = {
      principal: who.principal,
      name: who.displayName,
      roles: who.bindings.map((b) => `${b.deny ? "not " : ""}${b.role}@${b.scope || "(root)"}`).join(" "),
    };
    await items([{ value, json: value, name: value.principal }], [
      { name: "principal", get: (w) => w.principal },
      { name: "name", get: (w) => w.name },
      { name: "roles", get: (w) => w.roles },
    ], true);
  },
});
