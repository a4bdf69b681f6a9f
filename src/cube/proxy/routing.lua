-- Decides where a request goes. Runs inside Envoy, once per request, before routing.
--
-- The decision is left in dynamic metadata, which the routes match on and which no client can send:
--   cube.kind        api | envd | sandbox | refused
--   cube.sandbox_id  once known; cube.port, for kind sandbox
--   cube.upstream    address:port that the cluster `sandbox` dials
-- It is written last: should this script fail half-way, no route matches and the request is refused.
--
-- CONFIG and sha256.lua are put in front of this text by listener.py.

local TOKEN_HEADER = "e2b-traffic-access-token"
local LONGEST_TOKEN = 128

local SERVICES = { [49983] = "envd", [49999] = "interpreter" }

-- Paths of envd that only the node itself may call.
local INTERNAL = {
  ["/init"] = true, ["/freeze"] = true, ["/unfreeze"] = true,
  ["/fsfreeze"] = true, ["/fsthaw"] = true, ["/collapse"] = true,
}

local function refuse(status, message, id)
  return { kind = "refused", status = status, message = message, id = id }
end

local function host_of(authority)
  local host = authority:lower()
  local ipv6 = host:match("^%[[%x:.]+%]")
  if ipv6 then return ipv6 end
  host = host:gsub(":%d*$", "")
  return (host:gsub("%.$", ""))
end

-- Hosts that are not a sandbox's own name, where the routing headers count.
local function takes_headers(host)
  return host == "localhost" or host == CONFIG.domain
    or host:sub(1, 8) == "sandbox." or host:sub(1, 1) == "["
    or host:match("^%d+%.%d+%.%d+%.%d+$") ~= nil
end

-- `<port>-<sandboxID>` in front of the domain.
local function split_host(host)
  local label, domain = host:match("^([^.]+)%.(.+)$")
  if domain ~= CONFIG.domain then return nil end
  return label:match("^(%d+)%-(.*)$")
end

-- Ids may carry the `-<clientID>` of old clients.
local function parse_id(text)
  local id = text:match("^([a-z0-9]+)$") or text:match("^([a-z0-9]+)%-[a-z0-9-]+$")
  if id and #id <= 40 then return id end
  return nil
end

local function parse_port(text)
  local port = text:match("^%d+$") and #text <= 5 and tonumber(text)
  if port and port >= 1 and port <= 65535 then return port end
  return nil
end

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

-- Also for spellings of an internal path that a lenient server might take for it.
local function is_internal(target)
  local path = unescape(target:match("^[^?#]*"))
  if path:find("//", 1, true) or (path .. "/"):find("/%.%.?/") then return true end
  path = path:gsub("/$", "")
  return INTERNAL[path] ~= nil
end

local function to_sandbox(port_text, id_text, path)
  local port, id = parse_port(port_text), parse_id(id_text)
  if not port then return refuse(400, "bad port: a port is a number from 1 to 65535") end
  if not id then return refuse(400, "bad sandbox id: an id has lower-case letters and digits only") end
  local service = SERVICES[port]
  if not service then return { kind = "sandbox", id = id, port = port } end
  if service == "envd" and is_internal(path) then return refuse(404, "no such path", id) end
  return { kind = "envd", id = id, service = service }
end

local function by_headers(port_text, id_text, path)
  if not id_text then return refuse(400, "missing header E2b-Sandbox-Id") end
  if not port_text then return refuse(400, "missing header E2b-Sandbox-Port") end
  return to_sandbox(port_text, id_text, path)
end

-- Signed URLs name no sandbox: envd finds the one whose token made the signature.
local function is_signed_file(method, path)
  if method ~= "GET" and method ~= "POST" then return false end
  local query = path:match("^/files%?(.*)$")
  return query ~= nil and ("&" .. query):find("&signature=", 1, true) ~= nil
end

-- request: authority, method, path, id, port (the last two are the routing headers, or nil).
function decide(request)
  local host = host_of(request.authority)
  local port, id = split_host(host)
  if port then return to_sandbox(port, id, request.path) end
  if takes_headers(host) and (request.id or request.port) then
    return by_headers(request.port, request.id, request.path)
  end
  if not (request.id or request.port) and is_signed_file(request.method, request.path) then
    return { kind = "envd", service = "envd" }
  end
  return { kind = "api" }
end

-- A record has one `name=value` per line (cube.proxy.routes).
local function parse_route(record)
  local route = {}
  for name, value in (record or ""):gmatch("([a-z]+)=([^\n]*)\n") do route[name] = value end
  if not route.address or not route.address:match("^%d+%.%d+%.%d+%.%d+$") then return nil end
  return route
end

-- The id is checked before it gets here: it cannot leave the directory.
local function read_route(id)
  local file = io.open(CONFIG.routes .. "/" .. id, "r")
  if not file then return nil end
  local record = file:read("*a")
  file:close()
  return parse_route(record)
end

-- The token goes along: who may not enter a sandbox may not wake it up either.
local function ask_directory(handle, id, token)
  local question = { [":method"] = "GET", [":path"] = "/" .. id, [":authority"] = "lookup" }
  if #token <= LONGEST_TOKEN then question[TOKEN_HEADER] = token end
  local headers, body = handle:httpCall("lookup", question, "", CONFIG.lookup_timeout_ms)
  local status = tonumber(headers[":status"])
  if status == 200 then return parse_route(body) end
  if status == 403 or status == 404 or status == 502 then return nil, refuse(status, body, id) end
  return nil, refuse(503, "The sandbox could not be looked up: the service is restarting; try again in a second", id)
end

-- Takes as long for every token of that length, right or wrong.
local function same(a, b)
  local difference = bit.bxor(#a, #b)
  for index = 1, math.min(#a, #b) do
    difference = bit.bor(difference, bit.bxor(a:byte(index), b:byte(index)))
  end
  return difference == 0
end

-- Why a sandbox with this route is closed to a request with this token; nil when it is open.
function closed(route, token)
  if not route.token then return nil end
  if token == "" then
    return "Sandbox is secured with traffic access token. Token header '" .. TOKEN_HEADER .. "' is missing"
  end
  if #token <= LONGEST_TOKEN and same(sha256(token), route.token) then return nil end
  return "Sandbox is secured with traffic access token. Provided token in header '" .. TOKEN_HEADER .. "' is invalid"
end

-- The Host header that a sandbox with this route wants to see, nil for the client's own.
function masked_host(route, port)
  return route.host and (route.host:gsub("%${PORT}", tostring(port)))
end

local function resolve(handle, decision)
  local token = handle:headers():get(TOKEN_HEADER) or ""
  local route, refusal = read_route(decision.id), nil
  if not route then route, refusal = ask_directory(handle, decision.id, token) end
  if refusal then return refusal end
  if not route then return refuse(503, "The sandbox could not be looked up; try again in a second", decision.id) end
  local reason = closed(route, token)
  if reason then return refuse(403, reason, decision.id) end
  decision.upstream = route.address .. ":" .. decision.port
  decision.host = masked_host(route, decision.port)
  decision.secured = route.token ~= nil
  return decision
end

local function record(handle, decision)
  local metadata = handle:streamInfo():dynamicMetadata()
  if decision.id then metadata:set("cube", "sandbox_id", decision.id) end
  if decision.port then metadata:set("cube", "port", decision.port) end
  if decision.upstream then metadata:set("cube", "upstream", decision.upstream) end
  metadata:set("cube", "kind", decision.kind)
end

local function address_to_envd(headers, decision)
  if decision.id then headers:replace("x-cube-sandbox-id", decision.id) end
  headers:replace("x-cube-service", decision.service)
end

-- Headers that were fetched before a lookup must not be touched after it: Envoy takes them back while a script waits.
local function address_to_sandbox(handle, decision)
  local headers = handle:headers()
  if decision.host then headers:replace(":authority", decision.host) end
  if decision.secured then headers:remove(TOKEN_HEADER) end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local decision = decide({
    authority = headers:get(":authority") or "",
    method = headers:get(":method"),
    path = headers:get(":path") or "",
    id = headers:get("e2b-sandbox-id"),
    port = headers:get("e2b-sandbox-port"),
  })
  if decision.kind == "sandbox" then decision = resolve(handle, decision) end
  if decision.kind == "sandbox" then address_to_sandbox(handle, decision) end
  if decision.kind == "envd" then address_to_envd(headers, decision) end
  record(handle, decision)
  if decision.kind == "refused" then
    handle:respond({ [":status"] = tostring(decision.status) }, decision.message)
  else
    handle:clearRouteCache()
  end
end
