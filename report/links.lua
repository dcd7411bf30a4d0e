-- In the PDF all pages are parts of one document: a link to a page leads to its part.
function Link(link)
  local page, place = link.target:match("^([%w-]+)%.qmd#?(.*)$")
  if page then
    link.target = "#" .. (place ~= "" and place or page)
  end
  return link
end
