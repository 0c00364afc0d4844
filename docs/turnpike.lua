-- Dissector for Turnpike's tag (docs/wire-format.md).
-- tshark -X lua_script:docs/turnpike.lua -r capture.pcap

local turnpike = Proto("turnpike", "Turnpike tag")

local LABEL, TERMINALS_V4, TERMINALS_V6, OTHER_FAMILY, PACKET = 1, 2, 3, 5, 6
local kinds = {
    [LABEL] = "label",
    [TERMINALS_V4] = "IPv4 terminals",
    [TERMINALS_V6] = "IPv6 terminals",
    [4] = "operation and maintenance",
    [OTHER_FAMILY] = "label, other family",
    [PACKET] = "whole packet",
}
-- Bytes of the whole tag.
local bytes_of = { [LABEL] = 8, [TERMINALS_V4] = 24, [TERMINALS_V6] = 48, [OTHER_FAMILY] = 12, [PACKET] = 8 }

local fields = {
    version = ProtoField.uint8("turnpike.version", "Version", base.DEC, nil, 0xf0),
    next_port = ProtoField.bool("turnpike.next_port", "Next ports", 8, nil, 0x08),
    kind = ProtoField.uint8("turnpike.kind", "Kind", base.DEC, kinds, 0x07),
    label = ProtoField.uint64("turnpike.label", "Label", base.HEX),
    index = ProtoField.uint32("turnpike.index", "Index", base.DEC),
    generation = ProtoField.uint32("turnpike.generation", "Generation", base.HEX),
    length = ProtoField.uint16("turnpike.length", "Length", base.DEC),
    word = ProtoField.uint32("turnpike.header_word", "Header word", base.HEX),
    source_v4 = ProtoField.ipv4("turnpike.source", "Source"),
    destination_v4 = ProtoField.ipv4("turnpike.destination", "Destination"),
    source_v6 = ProtoField.ipv6("turnpike.source_v6", "Source"),
    destination_v6 = ProtoField.ipv6("turnpike.destination_v6", "Destination"),
    source_port = ProtoField.uint16("turnpike.source_port", "Source port", base.DEC),
    destination_port = ProtoField.uint16("turnpike.destination_port", "Destination port", base.DEC),
}
turnpike.fields = fields
turnpike.prefs.port = Pref.uint("UDP port", 47700, "The tag port of the nodes")

local bad_length = ProtoExpert.new("turnpike.bad_length", "Length differs from the datagram's",
    expert.group.MALFORMED, expert.severity.ERROR)
local bad_kind = ProtoExpert.new("turnpike.bad_kind", "No kind of tag",
    expert.group.MALFORMED, expert.severity.ERROR)
turnpike.experts = { bad_length, bad_kind }

local rtp = Dissector.get("rtp")
local rtcp = Dissector.get("rtcp")
local ip = Dissector.get("ip")
local ipv6 = Dissector.get("ipv6")
local HEADER_BYTES = 8

local function add_terminals(branch, buffer, at, bytes, source, destination)
    branch:add(source, buffer(at, bytes))
    branch:add(destination, buffer(at + bytes, bytes))
    branch:add(fields.source_port, buffer(at + 2 * bytes, 2))
    branch:add(fields.destination_port, buffer(at + 2 * bytes + 2, 2))
end

local function media(buffer, at, info, tree)
    if buffer:len() < at + 8 or math.floor(buffer(at, 1):uint() / 64) ~= 2 then
        return
    end
    local kind = buffer(at + 1, 1):uint()
    if kind >= 192 and kind <= 223 then
        rtcp:call(buffer(at):tvb(), info, tree)
    elseif buffer:len() >= at + 12 then
        rtp:call(buffer(at):tvb(), info, tree)
    end
end

function turnpike.dissector(buffer, info, tree)
    if buffer:len() < HEADER_BYTES then
        return 0
    end
    info.cols.protocol = "TURNPIKE"
    local kind = buffer(0, 1):uint() % 8
    local high = buffer(1, 1):uint()
    local low = buffer(4, 4):uint()
    local index = low % 0x100000
    local generation = high * 0x1000 + math.floor(low / 0x100000)
    local length = buffer(2, 2):uint()
    local bytes = bytes_of[kind] or HEADER_BYTES
    local branch = tree:add(turnpike, buffer(0, math.min(bytes, buffer:len())))
    branch:add(fields.version, buffer(0, 1))
    branch:add(fields.next_port, buffer(0, 1))
    local kind_item = branch:add(fields.kind, buffer(0, 1))
    branch:add(fields.label, buffer(1, 7), UInt64(low, high))
    branch:add(fields.index, buffer(4, 4), index)
    branch:add(fields.generation, buffer(1, 7), generation)
    local item = branch:add(fields.length, buffer(2, 2))
    info.cols.info = string.format("label 0x%02x%08x, %d bytes", high, low, length)
    if not bytes_of[kind] then
        kind_item:add_proto_expert_info(bad_kind)
        return buffer:len()
    end
    if buffer:len() < bytes or length ~= buffer:len() - bytes then
        item:add_proto_expert_info(bad_length)
        return buffer:len()
    end
    if kind == PACKET then
        if length > 0 then
            local version = math.floor(buffer(bytes, 1):uint() / 16)
            local inner = version == 6 and ipv6 or ip
            inner:call(buffer(bytes):tvb(), info, tree)
        end
        return buffer:len()
    end
    if kind ~= LABEL then
        branch:add(fields.word, buffer(8, 4))
    end
    if kind == TERMINALS_V4 then
        add_terminals(branch, buffer, 12, 4, fields.source_v4, fields.destination_v4)
    elseif kind == TERMINALS_V6 then
        add_terminals(branch, buffer, 12, 16, fields.source_v6, fields.destination_v6)
    end
    media(buffer, bytes, info, tree)
    return buffer:len()
end

DissectorTable.get("udp.port"):add(turnpike.prefs.port, turnpike)
