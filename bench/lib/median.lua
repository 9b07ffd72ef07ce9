-- The middle of a list of numbers, which is sorted by it.
return function(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end
