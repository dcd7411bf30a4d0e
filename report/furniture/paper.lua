-- What the PDF needs beyond the site.

-- All pages are parts of one document: a link to a page leads to its part.
function Link(link)
  local page, place = link.target:match("^([%w-]+)%.qmd#?(.*)$")
  if page then
    link.target = "#" .. (place ~= "" and place or page)
  end
  return link
end

-- A screen reader is told a formula's source.
function Math(math)
  local text = math.text:gsub("%s+", " "):gsub('[\\"]', "\\%0")
  return { pandoc.RawInline("typst", '#set math.equation(alt: "' .. text .. '");'), math }
end

-- An anchor without text is no place in the PDF unless something stands there.
function Span(span)
  if #span.content == 0 and span.identifier ~= "" then
    return pandoc.RawInline("typst", "#metadata(none) <" .. span.identifier .. ">")
  end
end
