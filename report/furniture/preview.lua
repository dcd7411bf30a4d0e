-- What Quarto's own filters do with a document, as far as the report needs it: parts for one
-- format only, callouts, the title, numbered sections, figures, tables and equations, and the
-- cross-references to them. Citations are left to pandoc's citeproc, which runs after this.

local NAMES = { fig = "Figure", tbl = "Table", eq = "Equation" }
local counts = {}
local names = {} -- by identifier, what a cross-reference shows

local function element(tag, attributes, blocks)
  local made = pandoc.Blocks { pandoc.RawBlock("html", "<" .. tag .. attributes .. ">") }
  made:extend(blocks)
  made:insert(pandoc.RawBlock("html", "</" .. tag .. ">"))
  return made
end

-- The keyboard reaches what has this, so that it can scroll there.
local function scrolling(classes, name, identifier)
  local attributes = { tabindex = "0", role = "group", ["aria-label"] = name }
  return pandoc.Attr(identifier or "", classes, attributes)
end

-- Parts for one format only

local function for_pages(part)
  local attributes = part.attributes
  local when, unless = attributes["when-format"], attributes["unless-format"]
  return (when == nil or when == "html") and unless ~= "html"
end

local function visible(part)
  if part.classes:includes("content-visible") then
    return for_pages(part) and part.content or {}
  elseif part.classes:includes("content-hidden") then
    return for_pages(part) and {} or part.content
  end
end

-- Callouts

local function take_title(callout, kind)
  local first = callout.content[1]
  if callout.attributes.title then
    return pandoc.read(callout.attributes.title).blocks[1].content
  elseif first and first.t == "Header" then
    return callout.content:remove(1).content
  end
  return pandoc.Inlines(kind:gsub("^%l", string.upper))
end

local function callout(div)
  local class = div.classes:find_if(function(name) return name:match("^callout%-") end)
  if class == nil then return end
  local title = pandoc.Plain(take_title(div, class:match("^callout%-(.*)")))
  local attributes = ' class="callout ' .. table.concat(div.classes, " ") .. '"'
  if div.attributes.collapse == nil then
    local heading = pandoc.Div({ pandoc.Para(title.content) }, { class = "callout-title" })
    return element("div", attributes, { heading, table.unpack(div.content) })
  end
  local open = div.attributes.collapse == "false" and " open" or ""
  local parts = element("summary", "", { title })
  parts:extend(div.content)
  return element("details", attributes .. open, parts)
end

-- The title and the sections

local function take_page_title(document)
  local first = document.blocks[1]
  if document.meta.title == nil and first and first.t == "Header" and first.level == 1 then
    document.meta.title = pandoc.MetaInlines(first.content)
    document.meta["title-identifier"] = first.identifier
    document.blocks:remove(1)
  end
end

-- The highest sections come right below the title, whatever their level was.
local function shift_sections(document)
  local top = 6
  document.blocks:walk { Header = function(header) top = math.min(top, header.level) end }
  document.blocks = document.blocks:walk {
    Header = function(header)
      header.level = math.min(header.level - top + 2, 6)
      return header
    end,
  }
end

local function number_sections(document)
  local html = (document.meta.format or {}).html or {}
  local numbered = html["number-sections"] ~= false and document.meta["number-sections"] ~= false
  local numbers = {}
  document.blocks = document.blocks:walk {
    Header = function(header)
      names[header.identifier] = pandoc.utils.stringify(header.content)
      if not numbered or header.classes:includes("unnumbered") then return end
      local depth = header.level - 1
      for level = 1, depth do numbers[level] = numbers[level] or 0 end
      numbers[depth] = numbers[depth] + 1
      local number = table.concat(numbers, ".", 1, depth)
      for level = depth + 1, #numbers do numbers[level] = nil end
      names[header.identifier] = "Section\u{a0}" .. number
      header.content:insert(1, pandoc.Span(number, { class = "number" }))
      header.content:insert(2, pandoc.Space())
      return header
    end,
  }
end

local function sections(document)
  take_page_title(document)
  shift_sections(document)
  number_sections(document)
  return document
end

-- Figures, tables and equations

local function take_number(identifier)
  local kind = identifier:match("^(%l+)%-")
  if NAMES[kind] == nil then return end
  counts[kind] = (counts[kind] or 0) + 1
  names[identifier] = NAMES[kind] .. "\u{a0}" .. counts[kind]
  return names[identifier], counts[kind]
end

local function figure(identifier, content, caption, alternative_text)
  local name = take_number(identifier)
  local text = pandoc.Inlines { pandoc.Strong(name .. ":"), pandoc.Space() }
  text:extend(caption)
  local parts = element("figcaption", "", { pandoc.Plain(text) })
  parts:extend(content)
  local attributes = ' id="' .. identifier .. '"'
  if alternative_text then
    local escaped = alternative_text:gsub("&", "&amp;"):gsub('"', "&quot;")
    attributes = attributes .. ' data-fig-alt="' .. escaped .. '"'
  end
  return element("figure", attributes, parts)
end

local function is_float(identifier) return identifier:match("^fig%-") or identifier:match("^tbl%-") end

-- A cross-reference div: its last paragraph is its caption. Folded code comes before the figure.
local function float_of_div(div)
  if not is_float(div.identifier) then return end
  local caption = div.content:remove()
  local is_code = function(block) return block.t == "Div" and block.classes:includes("fold") end
  local parts = div.content:filter(is_code)
  local content = div.content:filter(function(block) return not is_code(block) end)
  parts:extend(figure(div.identifier, content, caption.content, div.attributes["fig-alt"]))
  return parts
end

local function float_of_image(image)
  if not is_float(image.identifier) then return end
  return figure(image.identifier, image.content, pandoc.utils.blocks_to_inlines(image.caption.long))
end

-- A number with its interval reads as one, on one line.
local SHORT = 20

local function keep_together(cell)
  if utf8.len(pandoc.utils.stringify(cell)) <= SHORT then
    return pandoc.Plain { pandoc.Span(cell.content, { class = "together" }) }
  end
end

local function scroll_table(table)
  -- A browser shares the width out better than dashes do.
  table.colspecs = table.colspecs:map(function(column) return { column[1], nil } end)
  local identifier, caption = table.identifier, pandoc.utils.blocks_to_inlines(table.caption.long)
  table = table:walk { Plain = keep_together }
  if not is_float(identifier) then
    return pandoc.Div({ table }, scrolling({ "scroll" }, "Table"))
  end
  table.identifier, table.caption = "", {}
  local box = pandoc.Div({ table }, scrolling({ "scroll" }, "Table"))
  return pandoc.Div({ box, pandoc.Para(caption) }, { id = identifier })
end

-- A cell's code may be folded.
local function scroll_code(code)
  local box = pandoc.Div({ code }, scrolling({ "scroll" }, "Code"))
  if code.attributes.fold == nil then return box end
  code.attributes.fold = nil
  local parts = element("summary", "", { pandoc.Plain "Code" })
  parts:insert(box)
  return pandoc.Div(element("details", ' class="code"', parts), { class = "fold" })
end

local function scroll_chart(raw)
  if raw.text:find('class="chart"', 1, true) then
    return pandoc.Div({ raw }, scrolling({ "scroll" }, "Chart"))
  end
end

-- Takes the label off that stands behind an equation.
local function take_label(inlines, place)
  local label = inlines[place + 2]
  local identifier = label and label.t == "Str" and label.text:match("^{#(eq%-[%w_-]+)}$")
  if identifier then
    inlines:remove(place + 2)
    inlines:remove(place + 1)
  end
  return identifier
end

local function equation(math, identifier)
  local content = pandoc.Inlines { math }
  local name, number = "Equation", nil
  if identifier then
    name, number = take_number(identifier)
    content:insert(pandoc.Span("(" .. number .. ")", { class = "number" }))
  end
  return pandoc.Span(content, scrolling({ "scroll", "equation" }, name, identifier))
end

-- A formula within a line never breaks, so a long one is wider than a telephone's screen.
local LONG = 40

local function formulas(inlines)
  for place, inline in ipairs(inlines) do
    if inline.t == "Math" and inline.mathtype == "DisplayMath" then
      inlines[place] = equation(inline, take_label(inlines, place))
    elseif inline.t == "Math" and #inline.text > LONG then
      inlines[place] = pandoc.Span({ inline }, scrolling({ "scroll", "formula" }, "Formula"))
    end
  end
  return inlines
end

-- Links

local function cross_reference(cite)
  local links = pandoc.Inlines {}
  for _, citation in ipairs(cite.citations) do
    local name = names[citation.id]
    if name == nil then return end
    if #links > 0 then links:extend { pandoc.Str(","), pandoc.Space() } end
    links:insert(pandoc.Link(name, "#" .. citation.id))
  end
  return links
end

local function to_page(link)
  if not link.target:match("^%a+:") then
    link.target = link.target:gsub("%.qmd$", ".html"):gsub("%.qmd#", ".html#")
    return link
  end
end

-- The navigation, by `_quarto.yml`: what leads to a document, from this page.

local function entries(listed, top, here)
  local made = pandoc.List()
  for _, entry in ipairs(listed or {}) do
    local href = entry.href and pandoc.utils.stringify(entry.href)
    if entry.menu then
      made:insert { text = entry.text, menu = entries(entry.menu, top, here) }
    elseif href:match("%.qmd$") then
      local address = top .. href:gsub("%.qmd$", ".html")
      made:insert { text = entry.text, href = address, current = href == here }
    end
  end
  return made
end

local function add_navigation(meta)
  local here, bar = pandoc.utils.stringify(meta.here), (meta.website or {}).navbar
  meta.top = ("../"):rep(select(2, here:gsub("/", "")))
  if bar then
    meta.navigation = entries(bar.left, meta.top, here)
    meta.navigation:extend(entries(bar.right, meta.top, here))
  end
  return meta
end

-- Citations

local function add_references(document)
  local cited = false
  document.blocks:walk { Cite = function() cited = true end }
  if cited and document.meta.bibliography then
    document.blocks:insert(pandoc.Header(2, "References", { id = "references", class = "unnumbered" }))
    document.blocks:insert(pandoc.Div({}, { id = "refs" }))
    return document
  end
end

return {
  { Div = visible, Span = visible },
  { Div = callout },
  { Pandoc = sections },
  { Inlines = formulas },
  { Table = scroll_table, CodeBlock = scroll_code, RawBlock = scroll_chart },
  { Div = float_of_div, Figure = float_of_image },
  { Cite = cross_reference, Link = to_page },
  { Meta = add_navigation },
  { Pandoc = add_references },
}
