/** A token request is a few hundred bytes, or one foreign token. */
const formBytesMax = 64 * 1024;

/** The form, at most `formBytesMax` of it; undefined when it is larger, none, or names a field twice. */
export async function readForm(request: Request): Promise<ReadonlyMap<string, string> | undefined> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/x-www-form-urlencoded" || request.body === null) {
    await request.body?.cancel();
    return undefined;
  }
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const chunk of request.body) {
    size += chunk.length;
    // Leaving the loop cancels what was not read.
    if (size > formBytesMax) return undefined;
    chunks.push(chunk as Uint8Array<ArrayBuffer>);
  }
  return fieldsOf(new URLSearchParams(await new Blob(chunks).text()));
}

/** The parameters; undefined when one comes twice, which RFC 6749 section 3.1 forbids. */
export function fieldsOf(parameters: URLSearchParams): ReadonlyMap<string, string> | undefined {
  const fields = new Map<string, string>();
  for (const [name, value] of parameters) {
    if (fields.has(name)) return undefined;
    fields.set(name, value);
  }
  return fields;
}

/** Basic credentials (form-encoded inside, RFC 6749 section 2.3.1), or those in the form. */
export function clientCredentials(
  authorization: string | null,
  form: ReadonlyMap<string, string>,
): { readonly id: string; readonly secret: string | undefined } {
  const [scheme, encoded] = authorization?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "basic" && encoded !== undefined) {
    try {
      const text = atob(encoded);
      const colon = text.indexOf(":");
      const decode = (part: string) => decodeURIComponent(part.replaceAll("+", " "));
      return { id: decode(text.slice(0, colon)), secret: decode(text.slice(colon + 1)) };
    } catch {
      return { id: "", secret: "" };
    }
  }
  return { id: form.get("client_id") ?? "", secret: form.get("client_secret") };
}
