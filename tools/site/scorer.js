// The scores of Sphinx, but that a name's definition stands first.
var Scorer = {
  objNameMatch: 200, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2
}
