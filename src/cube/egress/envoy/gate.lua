-- Refuses requests that are ambiguous about whom they are for. Stands in front of what cannot be matched exactly:
-- rules for more than one name, requests that no rule fits, and upgrades.
--
-- The route of the request is known by now, and with it the filters that follow. So nothing is changed here that
-- routes are matched by.
--
-- CONFIG = { scheme, port, upgrading } is put in front of this text by listener.py; `upgrading` is the cluster for
-- upgrades, or empty where requests are no upgrades.

local function refuse(status, reason, message)
  return { status = status, reason = reason, message = message }
end

-- The name in small letters, without its port and final dot; the port where one is named.
local function parse_authority(authority)
  local name, port = authority:match("^([^:]+):(%d+)$")
  name = (name or authority):lower():gsub("%.$", "")
  return name, port
end

-- A name, or an IPv4 address in its usual form: not one of the others that some resolvers take for addresses.
local function is_host(name)
  if not name:match("^[a-z0-9_.-]+$") then return false end
  local last = name:match("[^.]*$")
  if not (last:match("^%d+$") or last:match("^0x%x*$")) then return true end
  local octets = { name:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for _, octet in ipairs(octets) do
    if tonumber(octet) > 255 or octet ~= tostring(tonumber(octet)) then return false end
  end
  return #octets == 4
end

-- request: authority, method, sni, dialled (the last two are the connection's). What is wrong with it, if anything.
function refusal(request)
  if request.method == "CONNECT" then
    return refuse("403", "connect_refused", "CONNECT is not carried out: connect to the server itself")
  end
  local name, port = parse_authority(request.authority)
  if not is_host(name) then
    return refuse("400", "host_invalid", "Host must be one name or IPv4 address")
  end
  if (port or CONFIG.port) ~= request.dialled:match(":(%d+)$") then
    return refuse("421", "port_mismatch", "The port in Host is not the port of this connection")
  end
  if CONFIG.scheme == "https" and (request.sni:lower():gsub("%.$", "")) ~= name then
    return refuse("421", "g4_host_sni_mismatch", "Host is not the name of this TLS connection")
  end
  return nil
end

local function answer(handle, refused)
  handle:streamInfo():dynamicMetadata():set("cube", "reason", refused.reason)
  local body = ('{"code":%s,"reason":"%s","message":"%s"}'):format(refused.status, refused.reason, refused.message)
  handle:respond({ [":status"] = refused.status, ["content-type"] = "application/json" }, body)
end

function envoy_on_request(handle)
  local headers, info = handle:headers(), handle:streamInfo()
  local refused = refusal({
    authority = headers:get(":authority") or "",
    method = headers:get(":method"),
    sni = info:requestedServerName() or "",
    dialled = info:downstreamLocalAddress(),
  })
  if refused then return answer(handle, refused) end
  if CONFIG.upgrading ~= "" then
    -- The route is looked for again, which finds the same with another cluster.
    headers:replace("x-cube-cluster", CONFIG.upgrading)
    handle:clearRouteCache()
  end
end
